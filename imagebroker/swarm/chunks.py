"""What a host knows of each chunk: who has it, which pieces it must have, and where it lies."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from imagebroker.swarm import tree
from imagebroker.swarm.certificates import NAME
from imagebroker.swarm.plan import FETCHED, LATE, SILENT, SLOW, Layout, waits_in_vain
from imagebroker.swarm.proof import Places

_BLOCK = 1024 * 1024


def own_folder(index: int) -> str:
    """Where a chunk lies in the spool that was read here, after it was hashed."""
    return f"{index}-own"


@dataclass(frozen=True)
class Told:
    """A chunk as a host has told of it, and where it lies: another one each time it is fetched."""

    index: int
    pieces: list[bytes]
    folder: str


@dataclass
class _Chunk:
    """One that somebody has."""

    pieces: list[bytes]
    #: The host that said so; None: this one has read it from the backend.
    by: str | None
    #: When bytes of it came last, and when others were last called for it.
    heard: float
    called: float
    #: Where libtorrent has it, in the spool.
    folder: str
    whole: bool = False
    #: It is fetched from others now.
    begun: bool = False
    #: Somebody else says that it has other bytes.
    doubted: bool = False
    progress: int = 0
    #: That it did not come was held against the host that said so.
    reported: bool = False
    #: Another host has read it, too: what comes of it says nothing of who told of it first.
    read_again: bool = False


class Chunks:
    """All chunks of one image. Files: `own-N` while it is read here, and then `N-own/NAME`;
    `N-M/NAME` if it came from others, M being another number each time that it is fetched: what
    libtorrent still writes of a chunk that was given up is no part of any other."""

    def __init__(
        self, layout: Layout, first: int, spool: Path, clock: Callable[[], float] = monotonic
    ) -> None:
        self._layout, self._first, self._spool, self._clock = layout, first, spool, clock
        self._found: dict[int, _Chunk] = {}
        #: When something came last; when something of any chunk came of which a host has told.
        self._came = 0.0
        self._gave: dict[str, float] = {}
        self._fetches = itertools.count(1)
        #: The digest of each chunk, proven by the root in the record; None: nobody has sent it.
        self.layer: list[bytes] | None = None
        #: The backend has sent other bytes than that root says: it is not believed any more.
        self.disproved = False

    def folder(self, index: int) -> str:
        """Where libtorrent has a chunk that is known, in the spool."""
        return self._found[index].folder

    def pieces_in(self, index: int) -> int:
        return -(-self._layout.length(index) // self._layout.piece)

    # -- what is known ---------------------------------------------------------------------------

    def pieces(self, index: int) -> list[bytes] | None:
        found = self._found.get(index)
        return None if found is None else found.pieces

    def told(self, index: int) -> Told | None:
        found = self._found.get(index)
        return None if found is None else Told(index, found.pieces, found.folder)

    def has(self, index: int) -> bool:
        found = self._found.get(index)
        return found is not None and found.whole

    def is_own(self, index: int) -> bool:
        found = self._found.get(index)
        return found is not None and found.by is None

    def announcer(self, index: int) -> str | None:
        """The host whose word the pieces of a chunk are."""
        found = self._found.get(index)
        return None if found is None else found.by

    def known(self) -> Iterator[tuple[int, list[bytes]]]:
        for index, chunk in list(self._found.items()):
            yield index, chunk.pieces

    def fetched(self) -> list[int]:
        """Those on their way from other hosts."""
        return [i for i, chunk in self._found.items() if chunk.begun and not chunk.whole]

    def to_fetch(self) -> list[int]:
        """Those that others have and whose turn it is now, in order."""
        moving = sum(not self._is_stuck(self._found[each]) for each in self.fetched())
        waiting = sorted(i for i, chunk in self._found.items() if not (chunk.begun or chunk.whole))
        return waiting[: max(FETCHED - moving, 0)]

    def own_or_whole(self, *, own: bool) -> list[int]:
        """Those that can be read here; `own`: only those that the backend itself has sent."""
        return [
            index
            for index, chunk in self._found.items()
            if chunk.whole and (chunk.by is None or not own)
        ]

    def unread(self) -> list[int]:
        """Those that nobody has, or that nobody sends, in order. Of one that is here, the digest of
        the image decides, whatever others say."""
        return [
            index
            for index in range(self._first, self._layout.count)
            if (chunk := self._found.get(index)) is None
            or (not chunk.whole and (chunk.doubted or self._is_stuck(chunk)))
        ]

    def _is_stuck(self, chunk: _Chunk) -> bool:
        """Nobody sends it, or not any more. While others send anything, it is behind that, and its
        turn comes."""
        if chunk.whole or not chunk.begun:
            return False
        silent, limit = self._clock() - chunk.heard, SLOW if chunk.progress else SILENT
        return silent > limit and (silent > LATE or self._clock() - self._came > SILENT)

    def _is_overdue(self, chunk: _Chunk) -> bool:
        """It is stuck, and who announced it had time enough to send something."""
        return self._is_stuck(chunk) and self._clock() - chunk.heard > 2 * SLOW

    def silence(self, host: str | None) -> float:
        """Seconds since something of any chunk came of which a host has told, and which nobody read
        after it."""
        return self._clock() - self._gave.get(host or "", -LATE)

    def bytes_there(self, *, own: bool) -> int:
        """Of chunks that are here or on their way; `own`: only what the backend has sent."""
        return sum(
            self._layout.length(index) if chunk.whole else chunk.progress
            for index, chunk in self._found.items()
            if chunk.by is None or not own
        )

    @property
    def complete(self) -> bool:
        return all(self.has(index) for index in range(self._first, self._layout.count))

    # -- what changes ----------------------------------------------------------------------------

    def offered(self, index: int, pieces: list[bytes], by: str) -> None:
        now = self._clock()
        folder = f"{index}-{next(self._fetches)}"
        self._found[index] = _Chunk(pieces, by, now, now, folder)

    def begin(self, index: int) -> None:
        """It is fetched from others from now on."""
        chunk = self._found[index]
        chunk.begun, chunk.heard = True, self._clock()

    def reannounced(self, index: int, by: str) -> None:
        """This host says the same of it."""
        self._found[index].by = by

    def doubt(self, index: int) -> None:
        self._found[index].doubted = True

    def heard(self, index: int, progress: int) -> bool:
        """Note how much of it is there; whether that is more than before."""
        chunk = self._found.get(index)
        if chunk is None or progress <= chunk.progress:
            return False
        chunk.progress, chunk.heard = progress, self._clock()
        self._came = chunk.heard
        if not chunk.read_again:
            self._gave[chunk.by or ""] = chunk.heard
        return True

    def vouched(self, index: int, by: str) -> None:
        """This host has read it from its own backend."""
        chunk = self._found[index]
        chunk.read_again = chunk.read_again or chunk.by != by

    def is_due(self, index: int) -> bool:
        """Whether nothing has come for a while, and nobody was called; notes that they are now.
        While other chunks come, it waits behind them, and for longer."""
        chunk, now = self._found.get(index), self._clock()
        if chunk is None or not waits_in_vain(
            now - max(chunk.heard, chunk.called), now - self._came
        ):
            return False
        chunk.called = now
        return True

    def newly_stuck(self) -> list[tuple[int, str]]:
        """Those that came to a halt since this was asked last, and who said that it has them."""
        found = []
        for index, chunk in self._found.items():
            if chunk.by is not None and not chunk.reported and self._is_overdue(chunk):
                chunk.reported = True
                found.append((index, chunk.by))
        return found

    def arrived(self, index: int) -> bool:
        """It came from others; False if that is not wanted any more."""
        chunk = self._found.get(index)
        if chunk is None or chunk.whole:
            return False
        chunk.whole = True
        return True

    def forget(self, index: int) -> None:
        self._found.pop(index, None)

    # -- the record ------------------------------------------------------------------------------

    def agrees(self, index: int, pieces: list[bytes]) -> bool:
        """Whether a chunk of these pieces may be right, as far as that is known."""
        return self.layer is None or self._node(index, pieces) == self.layer[index]

    def believe(self, layer: list[bytes]) -> list[tuple[int, str]]:
        """From now on; returns the chunks that were announced otherwise, and by whom."""
        if self.disproved:
            return []
        self.layer = layer
        wrong = [index for index, chunk in self._found.items()
                 if not self.agrees(index, chunk.pieces)]  # fmt: skip
        if any(self._found[index].by is None for index in wrong):
            self._disprove()  # the backend decides
            return []
        return [(index, str(self._found[index].by)) for index in wrong
                if not self._found[index].whole]  # fmt: skip

    def _disprove(self) -> None:
        self.layer, self.disproved = None, True

    def nodes(self) -> list[bytes] | None:
        """The digest of each chunk; None unless all are known."""
        if any(index not in self._found for index in range(self._layout.count)):
            return None
        return [self._node(i, self._found[i].pieces) for i in range(self._layout.count)]

    def _node(self, index: int, pieces: list[bytes]) -> bytes:
        layout = self._layout
        if layout.count == 1:
            return tree.root(pieces, layout.piece)
        return tree.node(pieces, layout.piece, layout.length(index), layout.chunk)

    # -- what changes ----------------------------------------------------------------------------

    def keep_own(self, index: int, pieces: list[bytes]) -> None:
        if not self.agrees(index, pieces):
            self._disprove()
        now = self._clock()
        self._found[index] = _Chunk(pieces, None, now, now, own_folder(index), whole=True)

    def announced_by(self, host: str) -> list[int]:
        """Those that are not here yet, and of which only this host has said what they are."""
        return [i for i, chunk in self._found.items() if chunk.by == host and not chunk.whole]

    # -- files -----------------------------------------------------------------------------------

    def take_in(self, index: int) -> list[bytes]:
        """Hash what was read from the backend, and put it where libtorrent finds it."""
        read = self._spool / f"own-{index}"
        pieces = self._hashed(read)
        folder = self._spool / own_folder(index)
        folder.mkdir(exist_ok=True)
        os.replace(read, folder / NAME)
        return pieces

    def is_intact(self, told: Told) -> bool:
        """Whether what libtorrent has put there consists of the pieces that were told."""
        try:
            return self._hashed(self._spool / told.folder / NAME) == told.pieces
        except OSError:  # it was given up meanwhile
            return False

    def root(self, index: int) -> bytes:
        """The root of the hash tree of the pieces that were told of a chunk."""
        return tree.root(self._found[index].pieces, self._layout.piece)

    def _hashed(self, path: Path) -> list[bytes]:
        with open(path, "rb", buffering=0) as file:
            return tree.pieces(iter(lambda: file.read(_BLOCK), b""), self._layout.piece)

    def grown(self, index: int) -> int:
        """Bytes of it that were read from the backend so far."""
        try:
            return os.stat(f"{self._spool}/own-{index}").st_size
        except OSError:
            return 0

    def bytes_at(self, places: Places, *, own: bool) -> list[bytes] | None:
        """What lies at these places; None unless all of it is here.

        :param own: only what the backend itself has sent to this host.
        """
        found = []
        for offset, length in places:
            data = bytearray()
            while len(data) < length:
                at = offset + len(data)
                index = at // self._layout.chunk
                if not self.has(index) or (own and not self.is_own(index)):
                    return None
                start, stop = self._layout.span(index)
                piece = self._piece(index, at - start, min(length - len(data), stop - at))
                if not piece:
                    return None
                data += piece
            found.append(bytes(data))
        return found

    def in_folder(self, told: Told, places: Places) -> list[bytes]:
        """What lies at these places of a chunk that may not be trusted yet."""
        start = self._layout.span(told.index)[0]
        return [self._read(told.folder, offset - start, length) for offset, length in places]

    def _piece(self, index: int, offset: int, length: int) -> bytes:
        found = self._found.get(index)
        return b"" if found is None else self._read(found.folder, offset, length)

    def _read(self, folder: str, offset: int, length: int) -> bytes:
        try:
            with open(self._spool / folder / NAME, "rb", buffering=0) as file:
                return os.pread(file.fileno(), length, offset)
        except OSError:
            return b""
