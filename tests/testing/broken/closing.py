"""Backends that do not end: they leak, or they wait."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from imagebroker.plugin import (
    Buffer,
    Image,
    ImageRef,
    TransferError,
)
from imagebroker.testing.fakes.memory import MemoryBackend, MemorySource, Stored
from tests.testing import hookups
from tests.testing.broken.register import LEAKED, broken
from tests.testing.peers import (
    LineBackend,
    LineSource,
)


@broken("C17")
class CloseTwiceFails(MemorySource):
    def close(self) -> None:
        if self._closed.is_set():
            raise ValueError("closed already")
        super().close()


@broken("C17")
class CloseBlocks(MemorySource):
    def close(self) -> None:
        time.sleep(1.0)


@broken("C17")
class CloseWaitsForTheRead(MemorySource):
    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        with self.__dict__.setdefault("lock", threading.Lock()):
            yield from super().read(start, stop)

    def close(self) -> None:
        if self.__dict__.setdefault("lock", threading.Lock()).acquire(timeout=1.0):
            super().close()


@broken("C17", hookups.LineContract)
class CloseDoesNotEndTheRead(LineSource):
    def close(self) -> None:
        LEAKED.append(self.sock.close)
        self.sock.close()


@broken("C17", hookups.LineContract)
class LeaksItsConnection(LineSource):
    def close(self) -> None:
        LEAKED.append(self.sock.close)


@broken("C17", hookups.LineContract)
class LeaksWhereTheImageIsMissing(LineBackend):
    def ask(self, ref: ImageRef, start: int = 0) -> tuple[socket.socket, Image]:
        sock = self.connect(ref)
        LEAKED.append(sock.close)
        sock.sendall(f"GET {ref.path} {start}\n".encode())
        line = b""
        while not line.endswith(b"\n"):
            byte = sock.recv(1)
            if not byte:
                raise TransferError("closed")
            line += byte
        return sock, self.described(ref, line.decode())


@broken("C17")
class LeaksADescriptor(MemorySource):
    def __init__(self, image: Image, stored: Stored) -> None:
        super().__init__(image, stored)
        fd = os.open("/dev/null", os.O_RDONLY)
        LEAKED.append(lambda: os.close(fd))


@broken("C17")
class LeaksAThread(MemorySource):
    def __init__(self, image: Image, stored: Stored) -> None:
        super().__init__(image, stored)
        stop = threading.Event()
        LEAKED.append(stop.set)
        threading.Thread(target=stop.wait, daemon=True).start()


@broken("C17")
class LeaksAChild(MemorySource):
    def __init__(self, image: Image, stored: Stored) -> None:
        super().__init__(image, stored)
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        LEAKED.append(child.communicate)


@broken("C25", hookups.LineContract)
class CloseKeepsItsConnections(LineBackend):
    def connect(self, ref: ImageRef) -> socket.socket:
        if "spare" not in self.__dict__:
            self.spare = super().connect(ref)
            LEAKED.append(self.spare.close)
        return super().connect(ref)


@broken("C25")
class CloseFails(MemoryBackend):
    def close(self) -> None:
        raise RuntimeError("cannot close")
