"""A store in memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebroker.plugin import Image
from tests.plugins.store.store import ALICE, ID, Store


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A directory where fsync costs nothing, if there is one."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


@pytest.fixture
def store(in_memory: Path) -> Iterator[Store]:
    store = Store(in_memory / "store")
    yield store
    store.backend.close()


@pytest.fixture
def image(store: Store) -> Image:
    return store.create(
        ALICE, id=ID, name="n", disk_format="raw", min_disk=1, min_ram=2, hidden=True, tags=("t",),
        properties={"a": "1", "b": "2"},
    )  # fmt: skip
