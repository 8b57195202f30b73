"""What arrives on a connection: the file that `http.client` and urllib3 read an answer from.

They parse heads and count bodies. This is the gate before them: a head reaches them only in one
canonical form, a chunk only after a size that no two programs can read differently, and each with
bounds on size and time. docs/security.md has the table of what is refused.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from socket import SHUT_RDWR, socket
from time import monotonic
from typing import Any

from imagebroker.backends.backend import Limits
from imagebroker.exceptions import (
    ImageBrokerError,
    TransferError,
    TransferTimeout,
    UnconfirmedEnd,
)
from imagebroker.http.buffers import Buffers
from imagebroker.http.gathering import Gathering
from imagebroker.http.head import MAX_FIELDS, Head, HeadLines, Malformed, check_trailer
from imagebroker.http.lost import lost
from imagebroker.redaction import printable

#: Bytes of a head, interim answers (1xx) included, and of the trailers after a chunked body.
MAX_HEAD = 64 * 1024
#: Interim answers before the one that counts.
MAX_INTERIM = 10
#: Bytes of the line before a chunk.
_MAX_CHUNK_LINE = 4096
#: Bytes of the first block, and of the room that a look at the connection must have.
_FIRST_BLOCK, _LEAST_ROOM = 64 * 1024, 32 * 1024
#: Bytes of a TLS record, at most, which may have arrived in part.
_RECORD = 20 * 1024
_CHUNK = rb"([0-9A-Fa-f]{1,15})[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?"
_NOTHING = memoryview(b"")


class Ragged(TransferError):
    """TLS ended without notice: the server's way to end, or somebody's who cuts connections."""

    hint = "try again; if it happens again, check the server and the network"


class Handle:
    """Ends whatever waits for a connection, from any thread."""

    def __init__(self, sock: socket) -> None:
        self._lock = threading.Lock()
        #: True if our own side has shut the connection down: an end of data then proves nothing.
        self.aborted = False
        self._sock: socket | None = sock

    def abort(self) -> None:
        """The owner of the connection still closes it."""
        with self._lock:
            self.aborted = True
            if self._sock is not None:
                try:
                    self._sock.shutdown(SHUT_RDWR)
                except OSError:
                    pass  # the peer was faster

    def close(self) -> None:
        """There is nothing to end any more: the owner has closed the connection."""
        with self._lock:
            self._sock = None


class _State(Enum):
    HEAD = auto()
    #: Data up to `left`, or to the end of the connection.
    DATA = auto()
    CHUNK_SIZE = auto()
    CHUNK_DATA = auto()
    CHUNK_END = auto()
    TRAILERS = auto()
    DONE = auto()


class Wire:
    """One answer. `readline`, `read`, `read1` and `readinto` are those of a binary file, except
    that `read1` yields a view of what has arrived instead of a copy."""

    def __init__(
        self,
        sock: socket,
        peer: str,
        limits: Limits,
        *,
        method: str = "GET",
        handle: Handle | None = None,
        buffers: Buffers | None = None,
        patience: float = 1.0,
    ) -> None:
        """`peer` is what messages call the other side; `patience` multiplies the time that it has
        to begin its answer."""
        self._sock, self._peer, self._limits, self._method = sock, peer, limits, method
        # Keeps the descriptor while the answer is read: http.client may close `sock` before.
        self._file = sock.makefile("rb", buffering=0)
        self._tls = hasattr(sock, "pending")
        self._handle = handle
        self._buffers = Buffers(limits.chunk_size) if buffers is None else buffers
        self._seconds = limits.stall_timeout * patience
        self._gathering = Gathering(sock, limits.stall_timeout, _RECORD if self._tls else 0)
        self._view = _NOTHING
        self._at = self._end = 0
        # What stood before the LF of the line with the size of the chunk.
        self._cr = b""
        self._due: float | None = None
        self._failure: OSError | None = None
        self._state = _State.HEAD
        self._served: deque[bytes] = deque()
        self._left: int | None = None
        self._size = 0
        #: What was read, once it was read.
        self.head: Head | None = None
        #: Bytes so far.
        self.received = 0
        self.closed = False

    # -- the file ------------------------------------------------------------------------------

    def makefile(self, *mode: Any) -> Wire:
        """Of `http.client`, which asks a socket for its file."""
        return self

    def readline(self, limit: int = -1) -> bytes:
        if self._state is _State.HEAD and self.head is None:
            self._served.extend(self.read_head().canonical())
        if self._served:
            return self._served.popleft()
        if self._state is _State.CHUNK_SIZE:
            return self._read_chunk_size()
        if self._state is _State.TRAILERS:
            self._read_trailers()
            return b"\r\n"
        return b""

    def read1(self, count: int = -1) -> memoryview:
        """What has arrived, at most so much; empty at the end."""
        if self._state is _State.CHUNK_END:
            self._read_chunk_end()
            return memoryview(b"\r\n")
        if self._state is not _State.DATA and self._state is not _State.CHUNK_DATA:
            return _NOTHING
        most = count if count >= 0 else 1 << 62
        if self._left is not None:
            most = min(most, self._left)
        if not most:
            return _NOTHING
        block = self._block(most)
        if not block:
            self._check_end()
        elif self._left is not None:
            self._left -= len(block)
            if not self._left and self._state is _State.CHUNK_DATA:
                self._state = _State.CHUNK_END
            elif not self._left:
                self._end_body()
        return block

    def read(self, count: int | None = -1) -> bytes:
        count = 1 << 62 if count is None or count < 0 else count
        pieces: list[memoryview | bytes] = []
        while count and (piece := self.read1(count)):
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        piece = self.read1(len(view))
        view[: len(piece)] = piece
        return len(piece)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True
        self._file.close()

    @property
    def surplus(self) -> bool:
        """Whether something came after the answer, or not all of it was read: what comes unasked
        would be taken for the next answer."""
        return self._at < self._end or self._state is not _State.DONE

    @property
    def aborted(self) -> bool:
        return self._handle is not None and self._handle.aborted

    # -- the head ------------------------------------------------------------------------------

    def read_head(self) -> Head:
        """The head of the answer; interim ones are passed over.

        :raises Malformed, TransferError, TransferTimeout: no such head came.
        """
        budget = [MAX_HEAD]
        with self._within(self._seconds):
            for _ in range(MAX_INTERIM + 1):
                lines = HeadLines(self._peer, self._text(budget))
                while line := self._text(budget):
                    lines.add(line)
                head = lines.head()
                if head.status == 101:
                    raise Malformed(f"{self._peer} switches to a protocol that was not asked for")
                if head.status >= 200:
                    self._frame(head)
                    self.head = head
                    return head
        raise Malformed(f"{self._peer} sent more than {MAX_INTERIM} interim answers")

    def _text(self, budget: list[int]) -> str:
        line = self._line(budget[0], "headers")
        budget[0] -= len(line) + 2
        return line.decode("latin-1")

    def _frame(self, head: Head) -> None:
        """How the body ends (RFC 9112, section 6.3). Two answers to that are none."""
        length = head.content_length
        coding = head.codings
        if self._method in ("HEAD", "CONNECT") or head.status in (204, 304):
            self._state = _State.DONE
            return
        if coding and (coding != ["chunked"] or length is not None or head.minor == 0):
            raise Malformed(
                f"{self._peer} sent an ambiguous body: Transfer-Encoding "
                f"{printable(', '.join(coding), 60)}"
            )
        self._left = self._size = length if length is not None else 0
        if coding:
            self._state = _State.CHUNK_SIZE
            return
        if length is None:
            self._left = None
        self._state = _State.DONE if length == 0 else _State.DATA

    # -- the body ------------------------------------------------------------------------------

    def _read_chunk_size(self) -> bytes:
        line = self._until_lf(_MAX_CHUNK_LINE, "the size of a chunk")
        self._cr = line[-1:] if line.endswith(b"\r") else b""
        match = re.fullmatch(_CHUNK, line.removesuffix(b"\r"))
        if match is None:
            raise self._broken_chunk()
        self._left = int(match[1], 16)
        self._state = _State.CHUNK_DATA if self._left else _State.TRAILERS
        return b"%x\r\n" % self._left

    def _read_chunk_end(self) -> None:
        # Ended as its size was: a CR that may also be the last byte of the data is neither.
        if self._until_lf(2, "the end of a chunk") != self._cr:
            raise self._broken_chunk()
        self._state = _State.CHUNK_SIZE

    def _read_trailers(self) -> None:
        budget = [MAX_HEAD]
        for _ in range(MAX_FIELDS):
            line = self._text(budget)
            if not line:
                self._end_body()
                return
            check_trailer(self._peer, line)
        raise Malformed(f"{self._peer} sent more than {MAX_FIELDS} trailers")

    def _end_body(self) -> None:
        self._state = _State.DONE
        self._gathering.end()
        self._view = _NOTHING  # the connection may be kept for long

    def _check_end(self) -> None:
        """The connection has ended. :raises TransferError: and the answer has not."""
        if self._left is None:
            self._end_body()
            return
        where = "within a chunk"
        if self._state is _State.DATA:
            where = f"after {self._size - self._left} of {self._size} bytes"
        raise TransferError(
            f"{self._peer} closed the connection {where}",
            hint="try again; if it happens again, check the server and the network",
        )

    def _broken_chunk(self) -> TransferError:
        return TransferError(
            f"{self._peer} sent a body whose chunks do not add up",
            hint="try again; if it happens again, check the server and proxies in between",
        )

    # -- bytes ---------------------------------------------------------------------------------

    @contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """All that is read inside must come in so many seconds altogether."""
        self._due = monotonic() + seconds
        try:
            yield
        finally:
            self._due = None
            self._sock.settimeout(self._limits.stall_timeout)

    def _line(self, limit: int, what: str) -> bytes:
        """The next line without its end, at most `limit` bytes of it."""
        return self._until_lf(limit, what).removesuffix(b"\r")

    def _until_lf(self, limit: int, what: str) -> bytes:
        """The next line without its LF."""
        line = bytearray()
        ended = False
        while not ended:
            if self._at == self._end and not self._fill():
                raise TransferError(
                    f"{self._peer} closed the connection within {what}"
                    if self.received
                    else f"{self._peer} closed the connection without an answer",
                    hint="try again; if it happens again, check the server and proxies in between",
                )
            found = self._view.obj.find(b"\n", self._at, self._end)  # type: ignore[attr-defined]
            ended = found >= 0
            stop = found + 1 if ended else self._end
            line += self._view[self._at : stop]
            self._at = stop
            if len(line) > limit + 2:
                raise Malformed(f"{self._peer} sent too much in {what}")
        return bytes(line[:-1])

    def _block(self, most: int) -> memoryview:
        """At most so many bytes, as soon as there are any; none at the end. Never copied."""
        if self._at == self._end and not self._fill():
            return _NOTHING
        start, self._at = self._at, min(self._end, self._at + most)
        return self._view[start : self._at]

    def _fill(self) -> bool:
        """Wait for bytes. False at the end. What was handed out is left alone."""
        if len(self._view) - self._end < min(_LEAST_ROOM, self._limits.chunk_size):
            self._begin_block()
        room = self._view[self._end :]
        try:
            count = self._receive(room)
        except OSError as error:
            raise self._lost(error) from error
        if self.aborted:
            raise self._closed_by_us()
        self.received += count
        self._at, self._end = self._end, self._end + count
        return count > 0

    def _begin_block(self) -> None:
        """An answer may be short: its first block is small."""
        if self._view:
            self._view = self._buffers.take()
        else:
            self._view = memoryview(bytearray(min(_FIRST_BLOCK, self._limits.chunk_size)))
        self._at = self._end = 0

    def _receive(self, room: memoryview) -> int:
        return self._receive_tls(room) if self._tls else self._look(room)

    def _look(self, room: memoryview) -> int:
        """Wait for bytes, in the body for as many as will come in a moment."""
        if self._due is not None:
            self._sock.settimeout(max(self._due - monotonic(), 0.001))
            return self._sock.recv_into(room)
        in_data = self._state is _State.DATA or self._state is _State.CHUNK_DATA
        return self._gathering.recv_into(room, self._left if in_data else 0)

    def _receive_tls(self, room: memoryview) -> int:
        """Wait for records, then take those that are there already."""
        import ssl

        if self._failure is not None:
            raise self._failure
        count, timeout = self._look(room), self._sock.gettimeout()
        self._sock.settimeout(0)
        try:
            while 0 < count < len(room) and (more := self._sock.recv_into(room[count:])):
                count += more
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            self._failure = error  # what came before it is good
        finally:
            self._sock.settimeout(timeout)
        return count

    def _closed_by_us(self) -> TransferError:
        return TransferError(f"{self._peer}: the connection was closed on our side")

    def _lost(self, error: OSError) -> ImageBrokerError:
        if self.aborted:
            return self._closed_by_us()
        if isinstance(error, TimeoutError):
            return TransferTimeout(
                f"{self._peer} sent nothing for {self._limits.stall_timeout:g} s"
                if self._due is None
                else f"{self._peer} did not answer within {self._seconds:g} s",
                hint="check the server and the network; stall_timeout sets the limit",
            )
        if self._tls and _is_ragged(error):
            message = f"{self._peer} closed the connection without ending TLS"
            if self._state is _State.DATA and self._left is None:
                return UnconfirmedEnd(message)
            return Ragged(message)
        return lost(self._peer, error)


def _is_ragged(error: OSError) -> bool:
    import ssl

    return isinstance(error, ssl.SSLEOFError)
