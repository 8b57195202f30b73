"""A directory that is allowed, a file outside of it, and a backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from imagebroker_file import FileBackend

from imagebroker.plugin import BackendHost, Options
from tests.plugins.file.paths import DATA, MakeBackend


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    folder = tmp_path / "A"
    folder.mkdir()
    (folder / "image.raw").write_bytes(DATA)
    return folder


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside of what is allowed."""
    path = tmp_path / "secret"
    path.write_bytes(b"secret")
    return path


@pytest.fixture
def make_backend(tmp_path: Path) -> Iterator[MakeBackend]:
    made: list[FileBackend] = []

    def make(*allowed_paths: object, personal: bool = False, **options: Any) -> FileBackend:
        values = {"store_dir": str(tmp_path / "store"), "fsync": False}
        values |= {"allowed_paths": [str(path) for path in allowed_paths], **options}
        made.append(FileBackend(BackendHost("file", Options(values), personal=personal)))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def backend(make_backend: MakeBackend, allowed: Path) -> FileBackend:
    return make_backend(allowed)
