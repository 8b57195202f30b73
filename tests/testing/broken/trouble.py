"""Backends whose errors are no errors of the contract, or that go around the facade."""

import contextlib
import http.client
import os
import socket
import time
from collections.abc import Iterator

from imagebroker.plugin import (
    Buffer,
    Context,
    Image,
    ImageNotFound,
    ImageRef,
    ImageSource,
    TransferError,
)
from imagebroker.testing.fakes.memory import MemorySource
from tests.testing import hookups
from tests.testing.broken.register import LEAKED, broken
from tests.testing.peers import (
    FolderBackend,
    FolderSource,
    LineBackend,
    WebBackend,
    let_go,
    split,
)


@broken("C18")
class CutIsAValueError(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        try:
            yield from super().read(start, stop)
        except TransferError as error:
            raise ValueError("odd") from error


@broken("C18", hookups.LineContract)
class EarlyEndIsAnIndexError(LineBackend):
    def described(self, ref: ImageRef, answer: str) -> Image:
        words = answer.split()
        if words[0] == "OK":
            return Image(ref=ref.text, size=int(words[1]), version=words[2])
        return super().described(ref, answer)

    def ask(self, ref: ImageRef, start: int = 0) -> tuple[socket.socket, Image]:
        sock = self.connect(ref)
        try:
            sock.sendall(f"GET {ref.path} {start}\n".encode())
            line = bytearray()
            while not line.endswith(b"\n") and (byte := sock.recv(1)):
                line += byte
            return sock, self.described(ref, line.decode())
        except BaseException:
            sock.close()
            raise


@broken("C18", hookups.FolderContract)
class NoDescriptorIsAnOSError(FolderBackend):
    def find(self, ref: ImageRef) -> int:
        os.close(os.open("/dev/null", os.O_RDONLY))
        return super().find(ref)


@broken("C18", hookups.FolderContract)
class LeaksWhenDescriptorsRunOut(FolderBackend):
    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        fd = self.find(ref)
        try:
            os.close(os.open("/dev/null", os.O_RDONLY))
        except OSError as error:
            LEAKED.append(lambda: os.close(fd))
            raise TransferError("no descriptor") from error
        return FolderSource(ref, fd)


@broken("C30", hookups.LineContract)
class AsksForEver(LineBackend):
    def ask(self, ref: ImageRef, start: int = 0) -> tuple[socket.socket, Image]:
        for _ in range(40):
            try:
                return super().ask(ref, start)
            except ImageNotFound:
                raise
            except Exception:
                time.sleep(0.1)
        raise TransferError("it does not answer")


@broken("C27", hookups.LineContract)
class ConnectsAroundTheFacade(LineBackend):
    def connect(self, ref: ImageRef) -> socket.socket:
        return socket.create_connection((ref.host or "", ref.port or 0), 5)


@broken("C27", hookups.LineContract)
class WaitsWithoutLimit(LineBackend):
    def connect(self, ref: ImageRef) -> socket.socket:
        sock = super().connect(ref)
        sock.settimeout(None)
        return sock


@broken("C28", hookups.FolderContract)
class OpensFilesItself(FolderBackend):
    def find(self, ref: ImageRef) -> int:
        try:
            return os.open(ref.path_bytes, os.O_RDONLY)
        except OSError as error:
            raise ImageNotFound(f"{ref}: no such file") from error


@broken("C28", hookups.FolderContract)
class FollowsLinks(FolderBackend):
    def find(self, ref: ImageRef) -> int:
        path = os.path.realpath(ref.path_bytes)
        return self.host.open_beneath("/", path[1:])


@broken("C29", hookups.WebContract)
class TokenFollowsRedirects(WebBackend):
    def may_identify(self, url: str, first: str) -> bool:
        return True


@broken("C29", hookups.WebContract)
class FollowsRedirectsAnywhere(WebBackend):
    def ask(
        self, url: str, headers: dict[str, str], first: str | None = None
    ) -> http.client.HTTPResponse:
        host, port, path = split(url)
        connection = http.client.HTTPConnection(host, port)
        connection.sock = self.host.connect(host, port)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        answer.connection = connection  # type: ignore[attr-defined]
        if answer.status == 302:
            let_go(answer)
            with contextlib.suppress(OSError):
                place = (answer.getheader("Location") or "").split("/")[2]
                socket.create_connection((place, 80), 0.1).close()
            raise TransferError("nobody there")
        return answer
