"""A web server whose connections are cut, and that counts what it has sent; made from options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.servers.raw import Connection


@dataclass
class CuttingServer:
    """The script of a `RawServer`: sends `data`, at most `cut` bytes on each connection."""

    data: bytes
    cut: int
    #: "said" in a header, "shown" by what it does, "refused" in a header, or "ignored".
    ranges: str = "said"
    etag: str | None = '"1"'
    #: "length", "chunked" or "close": how it says where the body ends.
    ends: str = "length"
    #: Further header lines.
    fields: list[str] = field(default_factory=list)
    #: Answers a request line with a status instead, where it says one.
    refuse: Callable[[str], str | None] = lambda line: None
    #: The request lines, and the first byte of each answer with data.
    answers: list[tuple[str, int]] = field(default_factory=list)
    #: Bytes of the image that were sent.
    sent: int = 0

    def __call__(self, connection: Connection, index: int) -> None:
        head = connection.read_head().decode("latin-1").lower()
        line = head.partition("\r\n")[0]
        status = self.refuse(line)
        if status is not None:
            connection.sendall(
                f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
            )
            return
        asked = head.partition("\r\nrange: bytes=")[2].partition("\r\n")[0]
        start, stop = 0, len(self.data)
        if asked and self.ranges in ("said", "shown"):
            first, _, last = asked.partition("-")
            start, stop = int(first), int(last or stop - 1) + 1
        if start >= len(self.data) and self.data:
            connection.sendall(
                f"HTTP/1.1 416 No\r\nContent-Range: bytes */{len(self.data)}\r\n"
                "Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
            )
            return
        self.answers.append((line, start))
        part = asked != "" and self.ranges in ("said", "shown")
        connection.sendall(self._head(part, start, stop))
        self._body(connection, self.data[start:stop])

    def _head(self, part: bool, start: int, stop: int) -> bytes:
        lines = ["HTTP/1.1 206 Partial Content" if part else "HTTP/1.1 200 OK", *self.fields]
        if part:
            lines.append(f"Content-Range: bytes {start}-{stop - 1}/{len(self.data)}")
        if self.ranges in ("said", "refused"):
            lines.append(f"Accept-Ranges: {'bytes' if self.ranges == 'said' else 'none'}")
        if self.etag is not None:
            lines.append(f"ETag: {self.etag}")
        if self.ends == "length":
            lines.append(f"Content-Length: {stop - start}")
        if self.ends == "chunked":
            lines.append("Transfer-Encoding: chunked")
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode()

    def _body(self, connection: Connection, body: bytes) -> None:
        allowed = body[: self.cut]
        step = 1 << 16
        for position in range(0, len(allowed), step):
            piece = allowed[position : position + step]
            if self.ends == "chunked":
                connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            else:
                connection.sendall(piece)
            self.sent += len(piece)
        if self.ends == "chunked" and len(allowed) == len(body):
            connection.sendall(b"0\r\n\r\n")
