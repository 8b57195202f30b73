"""Images at OpenSSH's sshd, and sshds with settings of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.scp.endpoint import MIB
from tests.servers.images import random_file
from tests.servers.sshd import Sshd


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return random_file(tmp_path / "image.raw", 3 * MIB + 17)


@pytest.fixture
def another_sshd() -> Iterator[Callable[..., Sshd]]:
    """Starts sshds with settings of their own; ended with the test."""
    running: list[Sshd] = []

    def start(**how: Any) -> Sshd:
        server = Sshd(**how)
        server.start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A directory that is to be the endpoint, with a neighbour that is not."""
    for name in ("shelf/inner", "shelf-evil", "outside"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "image").write_bytes(name.encode())
    (tmp_path / "shelf" / "image").write_bytes(b"on the shelf")
    (tmp_path / "shelf" / "out").symlink_to(tmp_path / "outside" / "image")
    (tmp_path / "shelf" / "evil").symlink_to(tmp_path / "shelf-evil")
    (tmp_path / "shelf" / "in").symlink_to("inner/image")
    return tmp_path / "shelf"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with three images and much that is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index, name in enumerate(("b.raw", "a b.qcow2", "c")):
        (folder / name).write_bytes(b"x" * (300 - index))
        os.utime(folder / name, (0, 1_700_000_000 + index))
    (folder / "directory").mkdir()
    (folder / "link").symlink_to("c")
    os.mkfifo(folder / "fifo")
    (folder / ".0123.imagebroker-part").touch()
    (folder / "two\nlines").touch()
    return folder
