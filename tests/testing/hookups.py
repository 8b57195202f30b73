"""Contract tests of the backends that the kit itself is tested with, healthy or broken."""

from __future__ import annotations

import itertools
import tempfile
import uuid
from pathlib import Path
from typing import ClassVar

import testtools

from imagebroker.model.reference import parse
from imagebroker.plugin import Image, ImageBackend, NotAuthorized, TransferError
from imagebroker.testing import BackendContract, MemoryBackend
from imagebroker.testing.fakes.memory import Stored, with_data
from tests.testing.peers import LineServer, StoringLineBackend, Web

_numbers = itertools.count()


class MemoryContract(BackendContract, testtools.TestCase):
    """For backends in memory: with every hook but that of large images."""

    backend_class: ClassVar[type[ImageBackend]] = MemoryBackend
    patience, grace, settle, stall_timeout = 2.0, 0.4, 0.2, 0.3

    def setUp(self) -> None:
        super().setUp()
        MemoryBackend.shelf.clear()
        self.addCleanup(MemoryBackend.shelf.clear)

    def make_backend(self) -> type[ImageBackend]:
        return self.backend_class

    def publish(self, data: bytes) -> str:
        image_id = str(uuid.uuid4())
        image = with_data(Image(ref="", id=image_id), data)
        MemoryBackend.shelf.put(image_id, Stored(image, data))
        return f"memory:{image_id}"

    def stored_at(self, ref: str) -> Stored:
        return MemoryBackend.shelf.find(ref.rpartition(":")[2])

    def replace(self, ref: str, data: bytes) -> None:
        stored = self.stored_at(ref)
        stored.image, stored.data = with_data(stored.image, data), data

    def forbid(self, ref: str) -> None:
        self.stored_at(ref).open_error = NotAuthorized(f"{ref} is not yours", hint="ask")

    def take_away(self, ref: str) -> None:
        MemoryBackend.shelf.remove(ref.rpartition(":")[2])

    def cut_after(self, ref: str, size: int) -> None:
        self.stored_at(ref).breaks = size, TransferError("cut")

    def stall_after(self, ref: str, size: int) -> None:
        self.stored_at(ref).breaks = size, None


class LineContract(BackendContract, testtools.TestCase):
    """For backends that speak to a `LineServer`: no hook breaks anything, the kit does."""

    backend_class: ClassVar[type[ImageBackend]]
    patience, grace, settle, stall_timeout = 2.5, 0.4, 0.2, 0.3

    def setUp(self) -> None:
        super().setUp()
        self.server = LineServer()
        self.addCleanup(self.server.close)

    def make_backend(self) -> type[ImageBackend]:
        return self.backend_class

    def publish(self, data: bytes) -> str:
        path = f"/{next(_numbers)}.img"
        self.server.images[path] = data
        return f"line://127.0.0.1:{self.server.port}{path}"

    def replace(self, ref: str, data: bytes) -> None:
        self.server.images["/" + ref.rpartition("/")[2]] = data

    def forbid(self, ref: str) -> None:
        self.server.forbidden.add("/" + ref.rpartition("/")[2])

    def take_away(self, ref: str) -> None:
        del self.server.images["/" + ref.rpartition("/")[2]]


class StoringContract(LineContract):
    """For backends that store on a `LineServer` too."""

    def setUp(self) -> None:
        super().setUp()
        StoringLineBackend.last = parse(self.publish(b"where the server is"))


class WebContract(LineContract):
    """For backends that speak to a `Web` server."""

    def setUp(self) -> None:
        super().setUp()
        self.server.close()
        self.server = Web()
        self.addCleanup(self.server.close)

    def publish(self, data: bytes) -> str:
        return super().publish(data).replace("line:", "web:", 1)


class FolderContract(BackendContract, testtools.TestCase):
    """For backends that serve files of this host."""

    backend_class: ClassVar[type[ImageBackend]]
    patience, grace, settle, stall_timeout = 2.0, 0.4, 0.2, 0.3

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def make_backend(self) -> type[ImageBackend]:
        return self.backend_class

    def publish(self, data: bytes) -> str:
        path = self.folder / f"{next(_numbers)}.img"
        path.write_bytes(data)
        return f"folder://{path}"

    def publish_sparse(self, size: int) -> str:
        ref = self.publish(b"")
        with open(ref.removeprefix("folder://"), "r+b") as file:
            file.seek(size - len(self.SPARSE_END))
            file.write(self.SPARSE_END)
        return ref
