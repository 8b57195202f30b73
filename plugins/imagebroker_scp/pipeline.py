"""Pipelined reads and writes over SFTP: many requests at once, with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from time import monotonic

from imagebroker.plugin import Buffer, TransferError
from imagebroker_scp.errors import EOF, StatusError, nonsense
from imagebroker_scp.messages import (
    DATA,
    READ,
    STATUS,
    WRITE,
    raise_for_status,
    read_request,
    write_request,
)
from imagebroker_scp.sftp import Reply, Sftp

#: Bytes that may be asked for and not yet handed out. With what waits in the channel's window, this
#: is all the memory that a transfer needs.
WINDOW = 6 * 1024 * 1024
#: Requests under way at most.
REQUESTS = 64
#: Smallest request after a server has shown that it sends less than is asked for.
SMALLEST = 4096
#: Bytes in order that are handed out before the rest of their answer has come: to gather them would
#: copy each once more, and smaller chunks cost the core more than a copy.
ENOUGH = 64 * 1024
#: Seconds after which a smaller part is handed out, so that a slow peer is seen alive.
FLUSH_AFTER = 0.25


class FileEnded(Exception):
    """The file is shorter than its reported size."""


class _Segment:
    """A stretch of the file that was asked for, and what came of it."""

    __slots__ = ("data", "missing", "offset")

    def __init__(self, offset: int, length: int) -> None:
        #: Where `data` belongs.
        self.offset = offset
        self.data: bytearray | memoryview = memoryview(b"")
        self.missing = length

    @property
    def stop(self) -> int:
        return self.offset + len(self.data) + self.missing

    def add(self, piece: memoryview) -> None:
        self.missing -= len(piece)
        if not self.data:
            self.data = piece
            return
        if isinstance(self.data, memoryview):
            self.data = bytearray(self.data)
        self.data += piece

    def take(self) -> Buffer:
        """What has come so far; the segment continues after it."""
        taken, self.data = self.data, memoryview(b"")
        self.offset += len(taken)
        return taken


class Reader:
    """Reads one stretch of an open file, keeping requests under way. Used once."""

    def __init__(
        self,
        sftp: Sftp,
        handle: bytes,
        start: int,
        stop: int | None,
        patience: float = FLUSH_AFTER,
    ) -> None:
        """`stop` None: to the end, wherever that is; `patience`: seconds that bytes may wait."""
        self._patience = patience
        self._sftp = sftp
        self._handle = handle
        self._next = start
        self._stop = stop
        self._length = sftp.max_read
        self._last_short = 0
        #: In the order of the file; the first is the next to be handed out.
        self._segments: deque[_Segment] = deque()
        self._under_way: dict[int, _Segment] = {}
        #: Where the file ended; known only after an answer has said so.
        self._ended: int | None = None
        self._handed_out = monotonic()

    def __iter__(self) -> Iterator[Buffer]:
        """The bytes in order.

        :raises FileEnded: before `stop`.
        :raises StatusError: the server cannot read on.
        :raises TransferError: it sends data that was not requested.
        """
        try:
            self._ask()
            while self._under_way:
                yield from self._answer(self._sftp.next_reply())
                yield from self._complete()
                self._ask()
        except TransferError:
            # Of a broken connection, all that has come in order is worth having.
            if self._segments:
                yield from self._hand_out(self._segments[0])
            raise
        finally:
            self._sftp.abandon(*self._under_way)

    def _ask(self) -> None:
        """Send requests until the window is full, several together: each packet has its price."""
        free = WINDOW - self._next + (self._segments[0].offset if self._segments else self._next)
        if len(self._under_way) > REQUESTS * 3 // 4 or (self._under_way and free < WINDOW // 4):
            return
        while len(self._under_way) < REQUESTS:
            stop = self._stop if self._ended is None else self._ended
            length = self._length if stop is None else min(self._length, stop - self._next)
            begin = self._segments[0].offset if self._segments else self._next
            if length <= 0 or self._next + length - begin > WINDOW:
                return
            segment = _Segment(self._next, length)
            self._segments.append(segment)
            self._next += length
            self._ask_for_rest(segment)

    def _ask_for_rest(self, segment: _Segment) -> None:
        begin = segment.stop - segment.missing
        request = read_request(self._handle, begin, segment.missing)
        self._under_way[self._sftp.post(READ, request)] = segment

    def _answer(self, reply: Reply) -> Iterator[Buffer]:
        """Take in one answer; yields what has waited for too long."""
        segment = self._under_way.pop(reply.id, None)
        if segment is None:
            raise nonsense(f"answered request {reply.id}, which was not sent")
        if reply.kind == STATUS:
            self._end(segment)
            return
        length = self._sftp.u32() if reply.kind == DATA and reply.length >= 4 else 0
        if not length or length != reply.length - 4 or length > segment.missing:
            raise nonsense(
                f"answered a read of {segment.missing} bytes with packet {reply.kind} "
                f"of {reply.length} bytes"
            )
        for piece in self._sftp.pieces():
            segment.add(piece)
            if segment is self._segments[0] and self._is_worth_handing_out(segment):
                yield from self._hand_out(segment)
        if segment.missing:
            self._learn(length)
            self._ask_for_rest(segment)

    def _is_worth_handing_out(self, segment: _Segment) -> bool:
        return len(segment.data) >= ENOUGH or monotonic() - self._handed_out > self._patience

    def _learn(self, length: int) -> None:
        """A server that sends less than is asked for, twice alike, has that for its limit."""
        if length == self._last_short:
            self._length = max(SMALLEST, min(self._length, length))
        self._last_short = length

    def _end(self, segment: _Segment) -> None:
        try:
            raise_for_status(self._sftp.body())
        except StatusError as error:
            if error.code != EOF:
                raise
        else:
            raise nonsense("answered a read with the status OK and no data")
        end = segment.stop - segment.missing
        if self._stop is not None:
            raise FileEnded(f"the file ended after {end} bytes")
        self._ended = end if self._ended is None else min(self._ended, end)
        segment.missing = 0

    def _complete(self) -> Iterator[Buffer]:
        """Hand out the segments that are complete and whose turn it is."""
        while self._segments and not self._segments[0].missing:
            yield from self._hand_out(self._segments.popleft())

    def _hand_out(self, segment: _Segment) -> Iterator[Buffer]:
        if not segment.data:
            return
        if self._ended is not None and segment.offset + len(segment.data) > self._ended:
            raise nonsense(f"sent data after the end of the file, at {self._ended} bytes")
        yield segment.take()
        self._handed_out = monotonic()


def write(sftp: Sftp, handle: bytes, chunks: Iterable[bytes]) -> int:
    """Write `chunks` to an open file from its beginning; the number of bytes.

    :raises StatusError: the server cannot store them.
    """
    offset = 0
    under_way: deque[int] = deque()
    try:
        for chunk in chunks:
            for start in range(0, len(chunk), sftp.max_write):
                data = chunk[start : start + sftp.max_write]
                under_way.append(sftp.post(WRITE, write_request(handle, offset, data)))
                offset += len(data)
                if len(under_way) >= REQUESTS:
                    _written(sftp, under_way)
        while under_way:
            _written(sftp, under_way)
    finally:
        sftp.abandon(*under_way)
    return offset


def _written(sftp: Sftp, under_way: deque[int]) -> None:
    reply = sftp.next_reply()
    if reply.id not in under_way or reply.kind != STATUS:
        raise nonsense(f"answered request {reply.id}, which was not sent")
    under_way.remove(reply.id)
    raise_for_status(sftp.body())
