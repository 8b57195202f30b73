"""A web server that claims what it is told to claim about its files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tests.servers.raw import Connection, RawServer

_REQUEST = re.compile(rb"(GET|HEAD) (\S+) HTTP/1\.1\r\n")
_RANGE = re.compile(rb"\r\nrange: bytes=(\d+)-(\d*)\r\n", re.IGNORECASE)


@dataclass
class File:
    """What a path leads to."""

    data: bytes
    #: Further fields of each answer: an ETag, digests, true or not.
    headers: dict[str, str] = field(default_factory=dict)
    #: The values of `sig` in the query, one of which opens it; None: anybody may have it.
    signatures: frozenset[str] | None = None
    #: The next answer ends after so many bytes of the data.
    cut_after: int | None = None


class Web(RawServer):
    """Answers GET and HEAD, ranges too; counts the bytes of data that it sent."""

    def __init__(self) -> None:
        super().__init__(self._talk)
        self.files: dict[str, File] = {}
        self.sent = 0

    def _talk(self, connection: Connection, index: int) -> None:
        while request := _REQUEST.match(head := connection.read_head()):
            parts = urlsplit(request[2].decode())
            file = self.files.get(parts.path)
            if file is None:
                connection.sendall(_head("404 Not Found", {}, 0))
                continue
            given = parse_qs(parts.query).get("sig", [""])[0]
            if file.signatures is not None and given not in file.signatures:
                connection.sendall(_head("403 Forbidden", {}, 0))
                continue
            self._send(connection, file, request[1] == b"GET", head)

    def _send(self, connection: Connection, file: File, is_get: bool, head: bytes) -> None:
        asked = _RANGE.search(head) if is_get else None
        size, status, fields = len(file.data), "200 OK", {"Accept-Ranges": "bytes"} | file.headers
        start, stop = 0, size
        if asked is not None:
            start, stop = int(asked[1]), min(int(asked[2] or size) + bool(asked[2]), size)
            status = "206 Partial Content"
            fields["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        connection.sendall(_head(status, fields, stop - start))
        if not is_get:
            return
        if file.cut_after is not None:
            stop, file.cut_after = min(stop, file.cut_after), None
            connection.sendall(file.data[start:stop])
            connection.close()
            return
        connection.sendall(file.data[start:stop])
        self.sent += stop - start


def _head(status: str, fields: dict[str, str], length: int) -> bytes:
    lines = [f"{name}: {value}" for name, value in (fields | {"Content-Length": length}).items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()
