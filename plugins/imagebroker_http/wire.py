"""One HTTP/1.1 connection: a request out, a head and a body in; with bounded memory.

On plain sockets, because `http.client`, and urllib3 above it, forgive what must not be forgiven
here: a malformed Content-Length, a chunk of -5 bytes, headers behind a broken one, interim answers
without end. Importing them also takes as long as 100 MB take on a local network.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from socket import MSG_PEEK, SHUT_RDWR, socket
from typing import TYPE_CHECKING

from imagebroker.plugin import (
    Limits,
    PolicyViolation,
    TransferError,
    TransferTimeout,
    UnconfirmedEnd,
    printable,
)
from imagebroker_http.buffers import Buffers
from imagebroker_http.head import MAX_FIELDS, Field, Head, HeadLines
from imagebroker_http.stream import Malformed, Ragged, Stream

if TYPE_CHECKING:
    import ssl

#: Bytes of a head, interim answers (1xx) included, and of the trailers after a chunked body.
MAX_HEAD = 64 * 1024
#: Interim answers before the one that counts.
MAX_INTERIM = 10
#: Bytes of the line before a chunk.
_MAX_CHUNK_LINE = 4096

_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_TARGET = re.compile(r"[\x21-\x7e]+")


class Connection:
    """Made around a connected socket; `exchange` and `body` in turn, `abort` from any thread."""

    def __init__(
        self, sock: socket, peer: str, limits: Limits, buffers: Buffers | None = None
    ) -> None:
        """`peer` is what messages call the other side; `buffers` may be shared with others."""
        self.peer = peer
        self._limits = limits
        # The one that was connected. Under TLS it stays a plain socket with a descriptor of its
        # own: `SSLSocket.shutdown` would make a read that waits take ciphertext for data.
        self._handle = sock
        self._buffers = Buffers(limits.chunk_size) if buffers is None else buffers
        self._stream = Stream(sock, peer, limits, self._buffers)
        self._lock = threading.Lock()
        self._closed = False
        self._framing: Iterator[memoryview] = iter(())
        #: True if another request may follow.
        self.reusable = False

    def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        """Go on in TLS with the server of that name.

        :raises PolicyViolation: its certificate is not acceptable. No request was sent.
        """
        if self._stream.pending:
            raise Malformed(f"{self.peer} sent something before it was asked")
        try:
            twin = self._handle.dup()
        except OSError as error:
            raise TransferError(
                f"{self.peer}: no descriptor for TLS: {error.strerror}",
                hint="this process has too many files and sockets open (ulimit -n)",
            ) from error
        try:
            twin.settimeout(self._limits.connect_timeout)
            with _tls_errors(self.peer):
                _check_connected(twin)
                # A cut must not look like the end of the answer.
                wrapped = context.wrap_socket(
                    twin, server_hostname=name, suppress_ragged_eofs=False
                )
        except BaseException:
            twin.close()
            raise
        with self._lock:
            self._stream = Stream(
                wrapped, self.peer, self._limits, self._buffers, aborted=self._stream.aborted
            )
        wrapped.settimeout(self._limits.stall_timeout)

    def exchange(self, method: str, target: str, fields: Sequence[Field]) -> Head:
        """Send a request and read the head of its answer; interim answers are passed over.

        :raises Malformed, TransferError, TransferTimeout: no such head came.
        """
        if not _TARGET.fullmatch(target):
            raise ValueError("the target of a request has characters that must be escaped")
        self.reusable = False
        self._stream.received = 0
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
        self._stream.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
        head = self._receive_head()
        self._framing = self._framed(method, head)
        return head

    @property
    def quiet(self) -> bool:
        """Whether the peer has neither closed the connection nor sent what nobody asked for."""
        self._handle.settimeout(0)  # not select.poll, which eventlet takes away
        try:
            self._handle.recv(1, MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self._handle.settimeout(self._limits.stall_timeout)
        return False

    @property
    def silent(self) -> bool:
        """Whether no byte of an answer has come since the request."""
        return self._stream.received == 0

    def body(self) -> Iterator[memoryview]:
        """The data of the answer as it arrives; the end is its end.

        :raises TransferError: it is cut, or its framing is broken.
        """
        return self._framing

    def _receive_head(self) -> Head:
        budget = [MAX_HEAD]
        with self._stream.within(self._limits.stall_timeout):
            for _ in range(MAX_INTERIM + 1):
                head = self._read_head(budget)
                if head.status == 101:
                    raise Malformed(f"{self.peer} switches to a protocol that nobody asked for")
                if head.status >= 200:
                    return head
        raise Malformed(f"{self.peer} sent more than {MAX_INTERIM} interim answers")

    def _read_head(self, budget: list[int]) -> Head:
        lines = HeadLines(self.peer, self._line(budget))
        while line := self._line(budget):
            lines.add(line)
        return lines.head()

    def _line(self, budget: list[int]) -> str:
        line = self._stream.line(budget[0], "headers")
        budget[0] -= len(line) + 2
        return line.decode("latin-1")

    def _framed(self, method: str, head: Head) -> Iterator[memoryview]:
        """How the body ends (RFC 9112, section 6.3). Two answers to that are none."""
        length = head.content_length
        coding = head.tokens("transfer-encoding")
        lasting = head.minor == 1 and "close" not in head.tokens("connection")
        if method in ("HEAD", "CONNECT") or head.status in (204, 304):
            return iter(())
        if coding and (coding != ["chunked"] or length is not None or head.minor == 0):
            raise Malformed(
                f"{self.peer} sent an ambiguous body: Transfer-Encoding "
                f"{printable(', '.join(coding), 60)}"
            )
        if coding:
            return self._chunked(lasting)
        return self._until_closed() if length is None else self._counted(length, lasting)

    def _counted(self, length: int, lasting: bool) -> Iterator[memoryview]:
        left = length
        while left:
            block = self._stream.block(left)
            if not block:
                raise self._cut(f"after {length - left} of {length} bytes")
            left -= len(block)
            if not left:
                self._finish(lasting)
            yield block

    def _chunked(self, lasting: bool) -> Iterator[memoryview]:
        while left := self._chunk_size():
            while left:
                block = self._stream.block(left)
                if not block:
                    raise self._cut("within a chunk")
                left -= len(block)
                yield block
            if self._stream.line(2, "the end of a chunk"):
                raise self._broken_chunk()
        budget = [MAX_HEAD]
        for _ in range(MAX_FIELDS):
            if not self._line(budget):
                self._finish(lasting)
                return
        raise Malformed(f"{self.peer} sent more than {MAX_FIELDS} trailers")

    def _chunk_size(self) -> int:
        match = _CHUNK.fullmatch(self._stream.line(_MAX_CHUNK_LINE, "the size of a chunk"))
        if match is None:
            raise self._broken_chunk()
        return int(match[1], 16)

    def _until_closed(self) -> Iterator[memoryview]:
        try:
            while block := self._stream.block(1 << 62):
                yield block
        except Ragged as error:
            raise UnconfirmedEnd(str(error), hint=UnconfirmedEnd.hint) from error

    def _finish(self, lasting: bool) -> None:
        # What comes unasked would be taken for the next answer.
        self.reusable = lasting and not self._stream.pending

    def _cut(self, where: str) -> TransferError:
        return TransferError(
            f"{self.peer} closed the connection {where}",
            hint="the server or something in between broke off; try again",
        )

    def _broken_chunk(self) -> TransferError:
        return TransferError(
            f"{self.peer} sent a body whose chunks do not add up",
            hint="the server or something in between is broken; try again",
        )

    def abort(self) -> None:
        """End whatever waits for this connection; its owner still closes it."""
        with self._lock:
            self._stream.aborted = True
            if not self._closed:
                try:
                    self._handle.shutdown(SHUT_RDWR)
                except OSError:
                    pass  # the peer was faster

    def close(self) -> None:
        """Let go, once; only by the thread that reads, or when none does."""
        with self._lock:
            self._closed, self.reusable = True, False
            self._stream.close()
            self._handle.close()


def _check_connected(sock: socket) -> None:
    """:raises ConnectionResetError: the peer is gone; ssl would leak its socket there."""
    try:
        sock.getpeername()
    except OSError as error:
        raise ConnectionResetError(error.errno, error.strerror) from error


@contextmanager
def _tls_errors(peer: str) -> Iterator[None]:
    import ssl

    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise PolicyViolation(
            f"{peer}: its certificate is refused: {error.verify_message}",
            hint="set ca_file to the authority that signed it; check the host name and the clock",
        ) from error
    except TimeoutError as error:
        raise TransferTimeout(
            f"{peer} did not finish the TLS handshake in time",
            hint="check that the port speaks TLS; connect_timeout sets the limit",
        ) from error
    except (ssl.SSLEOFError, ssl.SSLSyscallError, ConnectionError) as error:
        raise TransferError(
            f"{peer} closed the connection within the TLS handshake",
            hint="check that the port speaks TLS; try again",
        ) from error
    except OSError as error:
        raise TransferError(
            f"{peer}: no TLS connection: {error.strerror or error}",
            hint="check that the port speaks TLS of at least min_tls",
            retryable=False,
        ) from error
