"""Servers of this process, and healthy backends for them: what broken ones are made of."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import os
import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

from imagebroker.plugin import (
    Buffer,
    Conflict,
    Context,
    Image,
    ImageBackend,
    ImageChanged,
    ImageData,
    ImageNotFound,
    ImageRef,
    ImageSource,
    NotAuthorized,
    PolicyViolation,
    RangeIgnored,
    RefForm,
    TransferError,
    UploadFailed,
)

CHUNK = 64 * 1024


class _Threads(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client hung up


class LineServer:
    """Answers `GET path start` with a line and the bytes, and stores what `PUT path` brings."""

    handler: type[socketserver.BaseRequestHandler]

    def __init__(self) -> None:
        self.images: dict[str, bytes] = {}
        self.forbidden: set[str] = set()
        self._server = _Threads(("127.0.0.1", 0), self.handler)
        self._server.owner = self  # type: ignore[attr-defined]
        self.port: int = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Line(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        owner: LineServer = self.server.owner  # type: ignore[attr-defined]
        verb, path, *rest = self.rfile.readline(1000).decode().split()
        if verb == "PUT":
            self._store(owner, path)
        elif path in owner.forbidden:
            self.wfile.write(b"FORBIDDEN\n")
        elif path not in owner.images:
            self.wfile.write(b"NONE\n")
        else:
            data = owner.images[path]
            digest = hashlib.sha256(data).hexdigest()
            self.wfile.write(f"OK {len(data)} {digest}\n".encode() + data[int(rest[0]) :])

    def _store(self, owner: LineServer, path: str) -> None:
        """Chunks, each after a line with its length; the last is empty."""
        data = bytearray()
        while size := int(self.rfile.readline(100)):
            piece = self.rfile.read(size)
            if len(piece) < size:
                return
            data += piece
        owner.images[path] = bytes(data)
        self.wfile.write(b"STORED\n")


LineServer.handler = _Line


class LineBackend(ImageBackend):
    """Healthy: images on a `LineServer`."""

    api_version = 1
    name = "line"
    ref_form = RefForm(host=True, port=True, path=True, instance=True)

    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        return LineSource(self, ref)

    def connect(self, ref: ImageRef) -> socket.socket:
        return self.host.connect(ref.host or "", ref.port or 0)

    def ask(self, ref: ImageRef, start: int = 0) -> tuple[socket.socket, Image]:
        """A connection on which the bytes from `start` come, and the record."""
        sock = self.connect(ref)
        try:
            sock.sendall(f"GET {ref.path} {start}\n".encode())
            return sock, self.described(ref, read_line(sock))
        except BaseException:
            sock.close()
            raise

    def described(self, ref: ImageRef, answer: str) -> Image:
        match answer.split():
            case ["OK", size, digest] if size.isdigit():
                name = (ref.path or "").rpartition("/")[2].removesuffix(".img")
                return Image(ref=ref.text, name=name, size=int(size), version=digest)
            case ["NONE"]:
                raise ImageNotFound(f"{ref}: no such image", hint="check the path")
            case ["FORBIDDEN"]:
                raise NotAuthorized(f"{ref} is forbidden", hint="ask its owner")
        raise TransferError(f"{ref}: the server answers {answer!r:.100}")


def read_line(sock: socket.socket) -> str:
    line = bytearray()
    while not line.endswith(b"\n") and len(line) < 200:
        byte = sock.recv(1)
        if not byte:
            raise TransferError("the server closed the connection")
        line += byte
    return line.decode(errors="replace")


class LineSource(ImageSource):
    """One image of a `LineServer`."""

    seekable = True

    def __init__(self, backend: LineBackend, ref: ImageRef) -> None:
        self.backend, self.ref = backend, ref
        self.sock, self.image = backend.ask(ref)
        self.used = False

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        if start or self.used:
            self.ask_again(start)
        self.used = True
        left = (self.image.size or 0 if stop is None else stop) - start
        while left > 0:
            chunk = self.sock.recv(min(CHUNK, left))
            if not chunk:
                self.ended(left)
                return
            left -= len(chunk)
            yield chunk

    def ended(self, left: int) -> None:
        raise TransferError(f"{self.ref}: {left} bytes are missing")

    def ask_again(self, start: int) -> None:
        self.sock.close()
        self.sock, image = self.backend.ask(self.ref, start)
        if image.version != self.image.version:
            raise ImageChanged(f"{self.ref} is another image now", hint="download it again")

    def close(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already
        self.sock.close()


class StoringLineBackend(LineBackend):
    """Healthy: takes new images too, in the server of the ref `last`."""

    api_version = 1
    record_fields = ("name",)
    last: ImageRef | None = None

    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        last = self.last
        if last is None or data is None:
            raise Conflict("there is nothing to store, or no place", hint="give data")
        path = f"/{image.name}.img"
        self.send(last, path, data)
        text = f"{self.host.title}://{last.host}:{last.port}{path}"
        return Image(ref=text, name=image.name, size=data.sent)

    def send(self, ref: ImageRef, path: str, data: ImageData) -> None:
        with self.connect(ref) as sock:
            sock.sendall(f"PUT {path}\n".encode())
            try:
                for chunk in data:
                    sock.sendall(b"%d\n" % len(chunk) + chunk)
                sock.sendall(b"0\n")
                answer = read_line(sock)
            except OSError as error:
                raise UploadFailed(f"{path}: {error}") from error
        if answer != "STORED\n":
            raise UploadFailed(f"{path} was not stored")


class Web(LineServer):
    """The images over HTTP/1.1, with ranges and ETags."""


class _WebHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        owner: LineServer = self.server.owner  # type: ignore[attr-defined]
        data = owner.images.get(self.path)
        if data is None or self.path in owner.forbidden:
            self.send_response(404 if data is None else 403)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and self.headers.get("If-Range", etag) == etag and int(asked[1]) < len(data):
            start = int(asked[1])
            stop = min(int(asked[2]) + 1, len(data)) if asked[2] else len(data)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        else:
            start, stop = 0, len(data)
            self.send_response(200)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.wfile.write(data[start:stop])


Web.handler = _WebHandler


class WebBackend(ImageBackend):
    """Healthy: images on a `Web` server. Follows redirects with its token where it may."""

    api_version = 1
    name = "web"
    ref_form = RefForm(host=True, port=True, path=True)
    token = "the-token"

    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        return WebSource(self, ref)

    def ask(
        self, url: str, headers: dict[str, str], first: str | None = None
    ) -> http.client.HTTPResponse:
        host, port, path = split(url)
        connection = http.client.HTTPConnection(host, port)
        connection.sock = self.host.connect(host, port)
        mine = {"X-Auth-Token": self.token} if self.may_identify(url, first or url) else {}
        try:
            connection.request("GET", path, headers={**headers, **mine})
            answer = connection.getresponse()
        except http.client.HTTPException as error:
            connection.close()
            raise TransferError(f"{url}: {type(error).__name__}") from error
        except BaseException:
            connection.close()
            raise
        # The answer holds the socket until it is read or closed.
        answer.connection = connection  # type: ignore[attr-defined]
        if answer.status == 302:
            let_go(answer)
            return self.ask(
                self.moved(url, answer.getheader("Location") or ""), headers, first or url
            )
        return answer

    def may_identify(self, url: str, first: str) -> bool:
        return split(url)[:2] == split(first)[:2]

    def moved(self, old: str, new: str) -> str:
        return self.host.redirect(old, new)


def split(url: str) -> tuple[str, int, str]:
    match = re.fullmatch(r"\w+://([^/:]+):(\d+)(/.*)", url)
    if match is None:
        raise PolicyViolation(f"{url} is not a URL of a web server")
    return match[1], int(match[2]), match[3]


def let_go(answer: http.client.HTTPResponse) -> None:
    sock = answer.connection.sock  # type: ignore[attr-defined]
    if sock is not None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already
    answer.close()
    answer.connection.close()  # type: ignore[attr-defined]


class WebSource(ImageSource):
    """One image of a `Web` server."""

    seekable = True

    def __init__(self, backend: WebBackend, ref: ImageRef) -> None:
        self.backend, self.ref = backend, ref
        self.url = "http" + ref.text.removeprefix("web")
        self.answer = backend.ask(self.url, {})
        self.used = False
        if self.answer.status != 200:
            let_go(self.answer)
            if self.answer.status == 404:
                raise ImageNotFound(f"{ref}: no such image", hint="check the path")
            raise NotAuthorized(f"{ref}: status {self.answer.status}", hint="ask its owner")
        length = self.answer.getheader("Content-Length") or ""
        if not length.isdigit():
            let_go(self.answer)
            raise TransferError(f"{ref}: the server says no length")
        self.image = Image(ref=ref.text, size=int(length), version=self.answer.getheader("ETag"))

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        end = self.image.size or 0 if stop is None else stop
        if start >= end:
            return
        if start or self.used:
            self.ask_again(start, end)
        self.used = True
        left = end - start
        try:
            while left > 0:
                chunk = self.answer.read1(min(CHUNK, left))
                if not chunk:
                    raise TransferError(f"{self.ref}: {left} bytes are missing")
                left -= len(chunk)
                yield chunk
        except http.client.HTTPException as error:
            raise TransferError(f"{self.ref}: {type(error).__name__}") from error

    def ask_again(self, start: int, end: int) -> None:
        let_go(self.answer)
        headers = {"Range": f"bytes={start}-{end - 1}", "If-Range": self.image.version or ""}
        self.answer = self.backend.ask(self.url, headers)
        self.check_again(start, end)

    def check_again(self, start: int, end: int) -> None:
        if self.answer.getheader("ETag") != self.image.version:
            raise ImageChanged(f"{self.ref} is another image now", hint="download it again")
        wanted = f"bytes {start}-{end - 1}/{self.image.size}"
        if self.answer.status != 206 or self.answer.getheader("Content-Range") != wanted:
            self.seekable = False
            raise RangeIgnored(f"{self.ref}: asked for {wanted}, the server sends another range")

    def close(self) -> None:
        let_go(self.answer)


class FolderBackend(ImageBackend):
    """Healthy: the files of this host."""

    api_version = 1
    name = "folder"
    ref_form = RefForm(path=True)

    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        return FolderSource(ref, self.find(ref))

    def find(self, ref: ImageRef) -> int:
        return self.host.open_beneath("/", ref.path_bytes[1:])


class FolderSource(ImageSource):
    """An open file."""

    seekable = True
    parallel_reads = 4

    def __init__(self, ref: ImageRef, fd: int) -> None:
        self.image = Image(ref=ref.text, size=os.fstat(fd).st_size)
        self.file = open(fd, "rb", buffering=0)  # noqa: SIM115 - close() closes it

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        end = self.image.size or 0 if stop is None else stop
        while start < end:
            chunk = os.pread(self.file.fileno(), min(1 << 20, end - start), start)
            if not chunk:
                raise ImageChanged(f"{self.image.ref} was cut while it was read")
            yield chunk
            start += len(chunk)

    def close(self) -> None:
        self.file.close()
