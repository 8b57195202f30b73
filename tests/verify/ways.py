"""The three ways in which an image can be had, and what is left of each after a refusal."""

from __future__ import annotations

import abc
import io
from pathlib import Path
from typing import Any

from testtools.assertions import assert_that
from testtools.matchers import Equals, LessThan

import imagebroker


class Way(abc.ABC):
    """One destination."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "way"
        self.folder.mkdir()

    @abc.abstractmethod
    def get(self, broker: imagebroker.Broker, ref: str, **how: Any) -> tuple[bytes, dict[str, Any]]:
        """What arrived, and the evidence."""

    @abc.abstractmethod
    def assert_nothing_came(self, size: int) -> None:
        """After a refusal of `size` bytes."""


class ToPath(Way):
    """Nothing is at the destination, and nothing beside it."""

    def get(self, broker: imagebroker.Broker, ref: str, **how: Any) -> tuple[bytes, dict[str, Any]]:
        done = broker.download(None, ref, self.folder / "image", **how)
        assert_that([entry.name for entry in self.folder.iterdir()], Equals(["image"]))
        return (self.folder / "image").read_bytes(), done.evidence

    def assert_nothing_came(self, size: int) -> None:
        assert_that(list(self.folder.iterdir()), Equals([]))


class ToFile(Way):
    """A file object gets back its length and position."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.file = io.BytesIO(b"before")
        self.file.seek(0, io.SEEK_END)

    def get(self, broker: imagebroker.Broker, ref: str, **how: Any) -> tuple[bytes, dict[str, Any]]:
        done = broker.download(None, ref, self.file, **how)
        return self.file.getvalue().removeprefix(b"before"), done.evidence

    def assert_nothing_came(self, size: int) -> None:
        assert_that(self.file.getvalue(), Equals(b"before"))
        assert_that(self.file.tell(), Equals(6))


class ToReader(Way):
    """Whoever reads has not seen all of it, and no end."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seen = 0

    def get(self, broker: imagebroker.Broker, ref: str, **how: Any) -> tuple[bytes, dict[str, Any]]:
        chunks, self.seen = [], 0
        with broker.open(None, ref, **how) as reader:
            for chunk in reader:
                chunks.append(chunk)
                self.seen += len(chunk)
            return b"".join(chunks), reader.evidence

    def assert_nothing_came(self, size: int) -> None:
        if size:
            assert_that(self.seen, LessThan(size))


WAYS = [ToPath, ToFile, ToReader]
