"""What arrives on a socket, in order, with bounded memory and without copies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from socket import socket
from time import monotonic

from imagebroker.plugin import Limits, MalformedAnswer, TransferError, TransferTimeout
from imagebroker_http.buffers import Buffers

#: Bytes that the first look at a connection makes room for.
_FIRST_BLOCK = 64 * 1024


class Malformed(MalformedAnswer):
    """The peer does not speak HTTP/1.1 as it is written; it would do so again."""

    retryable = False
    hint = "check that the URL leads to a web server, and what stands in between"


class Ragged(TransferError):
    """TLS ended without notice: the server's way to end, or somebody's who cuts connections."""

    hint = "the server or something in between broke off; try again"


class Stream:
    """What arrives on a socket: lines while the framing is read, blocks of data otherwise."""

    def __init__(
        self, sock: socket, peer: str, limits: Limits, buffers: Buffers, *, aborted: bool = False
    ) -> None:
        self._sock, self._peer, self._limits, self._buffers = sock, peer, limits, buffers
        self._tls = hasattr(sock, "pending")
        self._buffer = bytearray()
        self._view = memoryview(self._buffer)
        self._at = self._end = 0
        self._room = min(_FIRST_BLOCK, limits.chunk_size)
        self._due: float | None = None
        self._failure: OSError | None = None
        #: Bytes so far.
        self.received = 0
        #: True if our own side has shut the connection down: its end is nobody's end then.
        self.aborted = aborted

    @property
    def pending(self) -> bool:
        """Whether bytes have arrived that nobody took."""
        return self._at < self._end

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """All that is read inside must come in so many seconds altogether."""
        self._due = monotonic() + seconds
        try:
            yield
        finally:
            self._due = None
            self._sock.settimeout(self._limits.stall_timeout)

    def send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise self._lost(error) from error

    def line(self, limit: int, what: str) -> bytes:
        """The next line without its end, at most `limit` bytes of it."""
        line = bytearray()
        ended = False
        while not ended:
            if not self.pending and not self._fill():
                raise TransferError(
                    f"{self._peer} closed the connection within {what}"
                    if self.received
                    else f"{self._peer} closed the connection without an answer",
                    hint="check the server, and what stands in between; try again",
                )
            found = self._buffer.find(b"\n", self._at, self._end)
            ended = found >= 0
            stop = found + 1 if ended else self._end
            line += self._view[self._at : stop]
            self._at = stop
            if len(line) > limit + 2:
                raise Malformed(f"{self._peer} sent too much in {what}")
        del line[-1:]
        return bytes(line.removesuffix(b"\r"))

    def block(self, most: int) -> memoryview:
        """At most so many bytes, as soon as there are any; none at the end. Never copied."""
        if not self.pending and not self._fill():
            return memoryview(b"")
        start, self._at = self._at, min(self._end, self._at + most)
        return self._view[start : self._at]

    def _fill(self) -> bool:
        """Wait for bytes. False at the end. What was yielded is left alone: each has its own."""
        if self._due is not None:
            self._sock.settimeout(max(self._due - monotonic(), 0.001))
        large = self._room >= self._buffers.size
        buffer = self._buffers.take() if large else bytearray(self._room)
        try:
            count = self._receive_tls(buffer) if self._tls else self._sock.recv_into(buffer)
        except OSError as error:
            raise self._lost(error) from error
        if self.aborted:
            raise TransferError(f"{self._peer}: the connection was closed on our side")
        self.received += count
        self._buffer, self._view, self._at, self._end = buffer, memoryview(buffer), 0, count
        if large:
            self._buffers.keep(buffer)
        # A slow peer's few bytes must not each hold a large buffer.
        self._room = min(self._limits.chunk_size, max(_FIRST_BLOCK, 2 * count))
        return count > 0

    def _receive_tls(self, buffer: bytearray) -> int:
        """Wait for one record (16 KiB), then take those that are there already."""
        import ssl

        if self._failure is not None:
            raise self._failure
        view, timeout = memoryview(buffer), self._sock.gettimeout()
        count = self._sock.recv_into(view)
        self._sock.settimeout(0)
        try:
            while 0 < count < len(view) and (more := self._sock.recv_into(view[count:])):
                count += more
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError as error:
            self._failure = error  # what came before it is good
        finally:
            self._sock.settimeout(timeout)
        return count

    def _lost(self, error: OSError) -> TransferError:
        if self.aborted:
            return TransferError(f"{self._peer}: the connection was closed on our side")
        if isinstance(error, TimeoutError):
            return TransferTimeout(
                f"{self._peer} sent nothing for {self._limits.stall_timeout:g} s"
                if self._due is None
                else f"{self._peer} did not answer within {self._limits.stall_timeout:g} s",
                hint="check the server and the network; stall_timeout sets the limit",
            )
        if self._tls and _is_ragged(error):
            return Ragged(f"{self._peer} closed the connection without ending TLS")
        return TransferError(
            f"{self._peer}: the connection was lost: {error.strerror or error}",
            hint="the server or something in between broke off; try again",
        )

    def close(self) -> None:
        self._sock.close()


def _is_ragged(error: OSError) -> bool:
    import ssl

    return isinstance(error, ssl.SSLEOFError)
