"""File systems that are not like the one that tests run on, mounted for a test. They need root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from tests.servers.process import ServerProcess

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Mount(Protocol):
    """Opens a mounted folder below a folder that is empty."""

    def __call__(self, *, folder: Path) -> AbstractContextManager[Path]: ...


def has_kind(name: str) -> bool:
    """Whether this kernel has that file system built in, or as a module that it can load."""
    modprobe = shutil.which("modprobe", path=_PATH)
    if modprobe is not None:
        subprocess.run([modprobe, name], check=False, capture_output=True)
    return name in Path("/proc/filesystems").read_text().split()


def missing(*programs: str) -> str | None:
    """Why nothing can be mounted here, and what to do; None if it can be."""
    if os.geteuid() != 0:
        return "only root may mount file systems"
    absent = [name for name in programs if shutil.which(name, path=_PATH) is None]
    if absent:
        return f"{', '.join(absent)} not found: run tests/install-servers"
    return None


def _run(*argv: str | Path) -> str:
    return subprocess.run(
        [str(word) for word in argv],
        check=True, capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": _PATH},
    ).stdout  # fmt: skip


@contextmanager
def cloud(folder: Path, cache_mode: str) -> Iterator[Path]:
    """A folder as rclone mounts it, through FUSE, as if it were in a cloud: no hard links, no
    renameat2(2); with the cache mode `off` files are written from the first byte to the last."""
    stored, mounted = folder / "stored", folder / "mounted"
    stored.mkdir()
    mounted.mkdir()
    argv = [
        "rclone", "mount", "--config", "/dev/null", "--cache-dir", folder / "cache",
        "--vfs-cache-mode", cache_mode, "--vfs-write-back", "0s", stored, mounted,
    ]  # fmt: skip
    server = ServerProcess([str(word) for word in argv], log=folder / "log")
    try:
        server.wait_until(lambda: os.path.ismount(mounted))
        yield mounted
    finally:
        if os.path.ismount(mounted):
            _run("fusermount3", "-u", "-z", mounted)
        server.stop()


@contextmanager
def disk(
    folder: Path, make: Sequence[str], mount: Sequence[str], size: int = 1 << 33
) -> Iterator[Path]:
    """A file system on a disk of its own, made and mounted by these programs."""
    file, mounted = folder / "disk", folder / "mounted"
    mounted.mkdir()
    with open(file, "wb") as made:
        made.truncate(size)
    _run(*make, file)
    with ExitStack() as undo:
        device = _run("losetup", "--find", "--show", file).strip()
        undo.callback(_run, "losetup", "--detach", device)
        _run(*mount, device, mounted)
        undo.callback(_run, "umount", mounted)
        yield mounted


@contextmanager
def in_memory(folder: Path, kind: str = "tmpfs", options: str = "rw") -> Iterator[Path]:
    mounted = folder / "mounted"
    mounted.mkdir()
    _run("mount", "-t", kind, "-o", options, "none", mounted)
    try:
        yield mounted
    finally:
        _run("umount", "-l", mounted)


@contextmanager
def mirrored(folder: Path, *options: str) -> Iterator[Path]:
    """A folder as bindfs shows it, through FUSE, with some things forbidden."""
    stored, mounted = folder / "stored", folder / "mounted"
    stored.mkdir()
    mounted.mkdir()
    _run("bindfs", *options, stored, mounted)
    try:
        yield mounted
    finally:
        _run("fusermount3", "-u", "-z", mounted)


@contextmanager
def mounted_on(file: Path, source: Path) -> Iterator[None]:
    """`source` at the name `file`, as a container gets single files of its host."""
    with ExitStack() as undo:
        _run("mount", "--bind", source, file)
        undo.callback(_run, "umount", "-l", file)
        yield


@contextmanager
def loop_device(file: Path, *options: str) -> Iterator[Path]:
    """A block device over a file; the test is skipped where there is none."""
    if os.geteuid() != 0:
        pytest.skip("only root has loop devices")
    found = subprocess.run(
        ["losetup", "--find", "--show", *options, str(file)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if found.returncode:
        pytest.skip(f"no loop device: {found.stderr.strip()}")
    device = Path(found.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", str(device)], check=True)
