"""The file backend keeps the contract: `file:` URIs and the embedded store."""

from __future__ import annotations

import itertools
import os
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import testtools
from imagebroker_file import FileBackend

from imagebroker.plugin import Image, ImageData
from imagebroker.testing import BackendContract

_numbers = itertools.count()


class FileContract(BackendContract):
    """A store and an allowed directory of their own for each test."""

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name, "images")
        self.folder.mkdir()
        self.store = Path(folder.name, "store")

    def options(self) -> dict[str, Any]:
        return {
            "store_dir": str(self.store), "allowed_paths": [str(self.folder)], "fsync": False,
        }  # fmt: skip

    def make_backend(self) -> FileBackend:
        return FileBackend(self.make_host(FileBackend, **self.options()))


class TestFileUri(FileContract, testtools.TestCase):
    """Files that refs name by path."""

    def publish(self, data: bytes) -> str:
        path = self.folder / f"{next(_numbers)}.img"
        path.write_bytes(data)
        return f"file://{quote(str(path))}"

    def replace(self, ref: str, data: bytes) -> None:
        new = self.folder / "new"
        new.write_bytes(data)
        os.replace(new, ref.removeprefix("file://"))

    def take_away(self, ref: str) -> None:
        os.unlink(ref.removeprefix("file://"))

    def publish_sparse(self, size: int) -> str:
        ref = self.publish(b"")
        with open(ref.removeprefix("file://"), "r+b") as file:
            file.seek(size - len(self.SPARSE_END))
            file.write(self.SPARSE_END)
        return ref


class TestFileStore(FileContract, testtools.TestCase):
    """Images of the embedded store, by id."""

    def publish(self, data: bytes) -> str:
        other = FileBackend(self.make_host(FileBackend, **self.options()))
        with closing(other), closing(ImageData(data, len(data))) as upload:
            fields = {"name": "published", "size": len(data)}
            return other.create(None, Image(ref="", **fields), upload).ref  # type: ignore[arg-type]

    def take_away(self, ref: str) -> None:
        with closing(FileBackend(self.make_host(FileBackend, **self.options()))) as other:
            other.delete(None, self.ref(ref))
