"""The bytes of an image: read in parallel where it has data, and zeros where it has none."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from imagebroker.plugin import Buffer, Image, ImageSource, TransferError
from imagebroker_rbd.image_state import ImageState
from imagebroker_rbd.names import Place
from imagebroker_rbd.operations import OpenImage, Operation

MIB = 1024 * 1024
#: Bytes whose data and holes are asked for at once.
_WINDOW = 256 * MIB
#: A hole smaller than this is read: asking for it costs as much.
_SMALL_HOLE = 64 * 1024
_ZEROS = memoryview(bytes(MIB))


@dataclass
class _Piece:
    """A piece of the image; a hole has no operation."""

    size: int
    operation: Operation | None = None
    confirmed: bool = field(default=False)


class RbdSource(ImageSource):
    """An open image, or a snapshot of it."""

    seekable = True

    def __init__(
        self,
        opened: OpenImage,
        state: ImageState,
        image: Image,
        place: Place,
        *,
        chunk: int,
        operations: int,
    ) -> None:
        """:param operations: how many read at the same time.

        They are all of one reader: what comes in order need not be read back to be hashed.
        """
        self.image, self.place = image, place
        self._opened, self._state = opened, state
        self._chunk, self._operations = chunk, operations
        self._doing = f"cannot read {image.ref}"

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        size = self.image.size or 0
        end = size if stop is None else min(stop, size)
        pieces = self._pieces(start, end)
        ahead: deque[_Piece] = deque()
        while True:
            while _has_room(ahead, self._operations):
                following = next(pieces, None)
                if following is None:
                    break
                ahead.append(following)
            if not ahead:
                return
            yield from self._bytes(ahead[0], ahead)
            ahead.popleft()

    def confirm(self) -> None:
        """:raises ImageChanged: it was removed after it was opened."""
        self._state.confirm()

    def close(self) -> None:
        self._opened.close()

    def _pieces(self, start: int, end: int) -> Iterator[_Piece]:
        """The pieces of a range; the reads of those with data have begun."""
        for begin in range(start, end, _WINDOW):
            until = min(begin + _WINDOW, end)
            at = begin
            for offset, stop in [*self._filled(begin, until), (until, until)]:
                if offset > at:
                    yield _Piece(offset - at, confirmed=True)
                at = max(at, offset)
                while at < stop:
                    size = min(stop, at - at % self._chunk + self._chunk) - at
                    yield _Piece(size, self._opened.start_read(at, size))
                    at += size

    def _filled(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Where there is data, in order."""
        found: list[tuple[int, int]] = []

        def note(offset: int, size: int, exists: bool) -> None:
            if exists:
                found.append((offset, offset + size))

        self._opened.diff(self._doing, begin, end - begin, note)
        self._state.confirm()  # the holes
        merged: list[tuple[int, int]] = []
        for offset, stop in sorted(found):
            offset, stop = max(offset, begin), min(stop, end)
            if merged and offset - merged[-1][1] < _SMALL_HOLE:
                merged[-1] = merged[-1][0], max(merged[-1][1], stop)
            elif offset < stop:
                merged.append((offset, stop))
        return merged

    def _bytes(self, piece: _Piece, ahead: deque[_Piece]) -> Iterator[Buffer]:
        if piece.operation is None:
            for at in range(0, piece.size, len(_ZEROS)):
                yield _ZEROS[: piece.size - at]
            return
        self._opened.wait(piece.operation, self._doing)
        if not piece.confirmed:
            self._confirm(ahead)
        data = piece.operation.data or b""
        if len(data) != piece.size:
            raise TransferError(
                f"{self._doing}: {len(data)} bytes instead of {piece.size} "
                f"at byte {piece.operation.offset}"
            )
        piece.operation.data = None
        yield data

    def _confirm(self, ahead: deque[_Piece]) -> None:
        """Ask once for all that has been read by now."""
        done = [piece for piece in ahead if piece.operation is not None and piece.operation.done]
        self._state.confirm()
        for piece in done:
            piece.confirmed = True


def _has_room(ahead: deque[_Piece], most: int) -> bool:
    """Whether another piece may be read ahead."""
    return sum(piece.operation is not None for piece in ahead) < most and len(ahead) < 2 * most
