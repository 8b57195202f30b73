"""A proxy in front of an HTTP/1.1 server that falsifies lengths, ranges, versions, redirects."""

from __future__ import annotations

import contextlib
import io
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from imagebroker.testing.faults.tcp_proxy import CHUNK, NO_FAULT, Passage, TcpProxy, Wires

#: Bytes of one head, and lines of it.
_HEAD_LIMIT = 256 * 1024
_RANGE = re.compile(rb"bytes=([0-9]+)-([0-9]*)")


@dataclass(frozen=True)
class Lie:
    """What an HTTP server does wrong, or does in a way that not every server does."""

    #: Only for requests with this target (path and query); by default for all.
    target: bytes | None = None
    #: Send the whole with status 200, whatever range is asked for.
    ignore_ranges: bool = False
    #: Send a range that begins so many bytes later than the one that is asked for, and say so.
    shift_ranges: int = 0
    #: Added to the Content-Length.
    length: int = 0
    #: Turn one bit of this byte of each body.
    corrupt_at: int | None = None
    #: From this answer on (counted from 0) the image is another one: its ETag and every byte.
    changed_from: int | None = None
    #: Answer with 302 and this Location.
    redirect: str | None = None
    #: Answer with this status and no body.
    status: int | None = None


HONEST = Lie()


@dataclass
class Head:
    """The first line and the header fields of a request or an answer."""

    line: bytes
    fields: list[tuple[bytes, bytes]]

    def get(self, name: bytes) -> bytes | None:
        """The value of the first field of this name (in lower case)."""
        return next((value for key, value in self.fields if key.lower() == name), None)

    def drop(self, *names: bytes) -> None:
        self.fields = [each for each in self.fields if each[0].lower() not in names]

    def put(self, name: bytes, value: bytes) -> None:
        """Set a field, where it is there or not."""
        self.drop(name.lower())
        self.fields.append((name, value))

    @property
    def length(self) -> int | None:
        value = self.get(b"content-length")
        return int(value) if value is not None and value.isdigit() else None

    @property
    def chunked(self) -> bool:
        return b"chunked" in (self.get(b"transfer-encoding") or b"").lower()

    def __bytes__(self) -> bytes:
        lines = [self.line, *(key + b": " + value for key, value in self.fields)]
        return b"\r\n".join([*lines, b"", b""])


@dataclass(frozen=True)
class Exchange:
    """One request, and what came back."""

    method: bytes
    target: bytes
    #: All of the request's head as it was sent.
    asked: bytes
    status: int
    #: Bytes of the body as the server announced them.
    length: int | None
    answered: Head = field(repr=False)


class HttpWires(Wires):
    """Connections to a server that speaks HTTP/1.1 without TLS, on which it lies."""

    def __init__(self, lie: Lie = HONEST) -> None:
        super().__init__()
        self.lie = lie
        self.exchanges: list[Exchange] = []
        #: Times that the lie was told.
        self.told = 0
        self._answers = 0
        self._counting = threading.Lock()

    def _relay(self, passage: Passage, server: socket.socket) -> None:
        conversation = _Conversation(self, passage, server)
        # A side that hangs up, or does not speak HTTP, ends the conversation.
        with contextlib.suppress(OSError, ValueError), contextlib.closing(conversation):
            while conversation.exchange():
                pass

    def next_answer(self) -> int:
        with self._counting:
            self._answers += 1
            return self._answers - 1


class HttpProxy(TcpProxy, HttpWires):
    """Listens on a port of this host, before a server that speaks HTTP/1.1 without TLS."""

    def __init__(self, target_host: str, target_port: int, lie: Lie = HONEST) -> None:
        TcpProxy.__init__(self, target_host, target_port, NO_FAULT)
        HttpWires.__init__(self, lie)


class _Conversation:
    """The requests and answers of one connection, one after the other."""

    def __init__(self, wires: HttpWires, passage: Passage, server: socket.socket) -> None:
        self._wires, self._passage = wires, passage
        self._client, self._server = passage.client, server
        self._from_client = passage.client.makefile("rb")
        self._from_server = server.makefile("rb")

    def close(self) -> None:
        self._from_client.close()
        self._from_server.close()

    def exchange(self) -> bool:
        """Pass on one request and its answer; whether another may follow."""
        request = _head(self._from_client)
        if request is None:
            return False
        asked = bytes(request)
        self._passage.first = self._passage.first or asked
        method, target, _ = request.line.split(b" ", 2)
        lie = self._wires.lie
        if lie.target not in (None, target):
            lie = HONEST
        if lie.redirect is not None or lie.status is not None:
            self._note(method, target, asked, Head(b"HTTP/1.1 %d x" % (lie.status or 302), []))
            self._answer_instead(lie)
            return False
        number = self._wires.next_answer() if lie is not HONEST and method == b"GET" else -1
        changed = lie.changed_from is not None and number >= lie.changed_from
        ranged = request.get(b"range") is not None
        self._twist_request(request, lie, changed)
        self._send(self._server, bytes(request))
        for piece in _body(self._from_client, request, none=True):
            self._send(self._server, piece)
        answer = _head(self._from_server)
        while answer is not None and answer.line.split(b" ")[1].startswith(b"1"):
            self._send(self._client, bytes(answer))
            answer = _head(self._from_server)
        if answer is None:
            return False
        self._note(method, target, asked, answer)
        return self._pass_on(method, answer, lie, changed, ranged)

    def _twist_request(self, request: Head, lie: Lie, changed: bool) -> None:
        asked = _RANGE.fullmatch(request.get(b"range") or b"")
        if asked is None:
            return
        if lie.ignore_ranges or (changed and request.get(b"if-range") is not None):
            request.drop(b"range", b"if-range")
            self._tell()
        elif lie.shift_ranges:
            start = int(asked[1]) + lie.shift_ranges
            request.put(b"Range", b"bytes=%d-%s" % (start, asked[2]))
            self._tell()

    def _pass_on(self, method: bytes, answer: Head, lie: Lie, changed: bool, ranged: bool) -> bool:
        bare = method == b"HEAD" or answer.line.split(b" ")[1] in (b"204", b"304")
        pieces = iter(()) if bare else _body(self._from_server, answer, none=False)
        if changed:
            answer.put(b"ETag", b'"another"')
            pieces = (bytes(byte ^ 255 for byte in piece) for piece in pieces)
            self._tell()
        if lie.corrupt_at is not None and not answer.chunked:
            pieces = _turned(pieces, lie.corrupt_at, self._tell)
        length = answer.length
        if lie.length and length is not None and not ranged:
            answer.put(b"Content-Length", b"%d" % max(0, length + lie.length))
            self._tell()
        self._send(self._client, bytes(answer))
        for piece in pieces:
            self._send(self._client, piece)
        closing = b"close" in (answer.get(b"connection") or b"").lower()
        unframed = not bare and length is None and not answer.chunked
        return not (closing or unframed or (lie.length and not bare))

    def _answer_instead(self, lie: Lie) -> None:
        lines = [f"HTTP/1.1 {lie.status or 302} Elsewhere", "Content-Length: 0"]
        if lie.redirect is not None:
            lines.append(f"Location: {lie.redirect}")
        self._tell()  # first: who has the answer may ask at once whether the lie was told
        self._send(self._client, "\r\n".join([*lines, "Connection: close", "", ""]).encode())

    def _tell(self) -> None:
        self._wires.told += 1
        self._passage.struck.set()

    def _note(self, method: bytes, target: bytes, asked: bytes, answer: Head) -> None:
        status = int(answer.line.split(b" ")[1])
        self._wires.exchanges.append(Exchange(method, target, asked, status, answer.length, answer))

    def _send(self, sink: socket.socket, data: bytes) -> None:
        sink.sendall(data)
        if sink is self._client:
            self._passage.received += len(data)
        else:
            self._passage.sent += len(data)


def _head(source: BinaryIO | io.BufferedReader) -> Head | None:
    """The next head; None at the end. :raises ValueError: it is invalid."""
    lines: list[bytes] = []
    size = 0
    while line := source.readline(_HEAD_LIMIT):
        size += len(line)
        if size > _HEAD_LIMIT:
            raise ValueError("a head without end")
        line = line.rstrip(b"\r\n")
        if not line and lines:
            pairs = [each.partition(b":") for each in lines[1:]]
            return Head(lines[0], [(key, value.strip()) for key, _, value in pairs])
        if line:
            lines.append(line)
    return None


def _body(source: io.BufferedReader, head: Head, *, none: bool) -> Iterator[bytes]:
    """The body as it is sent. `none`: without a declared length, there is no body."""
    if head.chunked:
        return _chunks(source)
    # Looked at now: the head may say something else when the body is passed on.
    length = head.length
    return iter(()) if length is None and none else _bytes(source, length)


def _chunks(source: io.BufferedReader) -> Iterator[bytes]:
    while line := source.readline(_HEAD_LIMIT):
        size = int(line.partition(b";")[0], 16)
        # The line end after the chunk goes along, and after the last one the empty trailer.
        yield line + source.read(size) + source.readline(_HEAD_LIMIT)
        if not size:
            return


def _bytes(source: io.BufferedReader, left: int | None) -> Iterator[bytes]:
    while left is None or left > 0:
        piece = source.read1(CHUNK if left is None else min(CHUNK, left))
        if not piece:
            return
        yield piece
        left = None if left is None else left - len(piece)


def _turned(pieces: Iterator[bytes], at: int, tell: Callable[[], None]) -> Iterator[bytes]:
    """The same bytes but for one bit of the one at `at`."""
    position = 0
    for piece in pieces:
        if position <= at < position + len(piece):
            index = at - position
            tell()
            yield piece[:index] + bytes([piece[index] ^ 1]) + piece[index + 1 :]
        else:
            yield piece
        position += len(piece)
