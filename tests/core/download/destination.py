"""A destination, absent or with old content, and what may be found at it afterwards."""

from __future__ import annotations

import hashlib
from pathlib import Path

from testtools.assertions import assert_that
from testtools.matchers import Equals

DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()
WRONG = "0" * 64


class Destination:
    """A destination path in a folder of its own, absent or with old content."""

    def __init__(self, folder: Path, existing: bool) -> None:
        folder.mkdir()
        self.folder, self.path = folder, folder / "dest.img"
        self.existing = existing
        if existing:
            self.path.write_bytes(b"what was there")
        self._inode = self.path.stat().st_ino if existing else None

    def assert_untouched(self) -> None:
        """State Z of the fault tables."""
        names = [entry.name for entry in self.folder.iterdir()]
        assert_that(names, Equals(["dest.img"] if self.existing else []))
        if self.existing:
            assert_that(self.path.read_bytes(), Equals(b"what was there"))
            assert_that(self.path.stat().st_ino, Equals(self._inode))

    def assert_complete(self, data: bytes = DATA) -> None:
        """State N of the fault tables."""
        assert_that(self.path.read_bytes(), Equals(data))
        assert_that([entry.name for entry in self.folder.iterdir()], Equals(["dest.img"]))
