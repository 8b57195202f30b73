"""A store as tests speak of it: through the backend, by id."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from imagebroker_file import FileBackend
from imagebroker_file.database import MARKER
from oslo_context.context import RequestContext
from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.model.reference import parse
from imagebroker.plugin import BackendHost, Image, ImageData, ImageQuery, Options

DATA = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
ID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
ADMIN = RequestContext(project_id="root", is_admin=True)
ALICE = RequestContext(project_id="alice")
BOB = RequestContext(project_id="bob")
NOBODY = RequestContext()


class Store:
    """A store as tests speak of it: through the backend, by id."""

    def __init__(self, directory: Path, **host: Any) -> None:
        self.directory = directory
        values = {"store_dir": str(directory), "allowed_paths": [], "fsync": False}
        self.backend = FileBackend(BackendHost("file", Options(values), **host))

    def create(self, context: Any = None, data: Any = b"data", **fields: Any) -> Image:
        size = fields.get("size")
        if data is None:
            return self.backend.create(context, Image(ref="", **fields), None)
        with closing(ImageData(data, size)) as upload:
            return self.backend.create(context, Image(ref="", **fields), upload)

    def get(self, image_id: str, context: Any = None, show_deleted: bool = False) -> Image:
        return self.backend.get(context, self.ref(image_id), show_deleted=show_deleted)

    def read(self, image_id: str, context: Any = None) -> bytes:
        source = self.backend.open(context, self.ref(image_id))
        try:
            return b"".join(source.read())
        finally:
            source.close()

    def list(self, context: Any = None, /, **query: Any) -> list[Image]:
        return list(self.backend.get_all(context, ImageQuery(**query)))

    def ids(self, context: Any = None, /, **filters: Any) -> set[str]:
        return {str(image.id) for image in self.list(context, filters=filters)}

    def update(
        self, image_id: str, context: Any = None, data: Any = None, purge: bool = False, **c: Any
    ) -> Image:
        if data is None:
            return self.backend.update(context, self.ref(image_id), c, None, purge)
        with closing(ImageData(data, c.get("size"))) as upload:
            return self.backend.update(context, self.ref(image_id), c, upload, purge)

    def delete(self, image_id: str, context: Any = None) -> None:
        self.backend.delete(context, self.ref(image_id))

    def ref(self, image_id: str) -> Any:
        return parse(self.backend.host.ref(image_id))

    def files(self) -> list[str]:
        """The files of bits, whole and unfinished."""
        found = [*self.directory.glob("images/*"), *self.directory.glob("incoming/*")]
        return sorted(str(path.relative_to(self.directory)) for path in found)

    def sql(self, statement: str, *values: Any) -> list[Any]:
        with closing(sqlite3.connect(self.directory / MARKER)) as db, db:
            return db.execute(statement, values).fetchall()

    def is_whole(self) -> None:
        """Every active image has its bits, nothing else is there, and the database is sound."""
        active = self.list(filters={"hidden": [True, False]})
        for image in active:
            assert_that(hashlib.sha256(self.read(str(image.id))).hexdigest(),
                        Equals(image.checksums["sha256"]))  # fmt: skip
        assert_that(self.files(), Equals(sorted(f"images/{image.id}" for image in active)))
        assert_that(self.sql("PRAGMA integrity_check"), Equals([("ok",)]))
        assert_that(self.sql("SELECT id FROM images WHERE upload IS NOT NULL"), Equals([]))


def open_files() -> list[str]:
    gc.collect()  # what an earlier test left to the garbage collector must not go in between
    return sorted(os.listdir("/proc/self/fd"))


def failing(after: int) -> Iterator[bytes]:
    yield DATA[:after]
    raise ValueError("the disk of the caller")


def names(images: list[Image]) -> set[str]:
    return {str(image.name) for image in images}


def python(program: str, *arguments: object, **how: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **how)
