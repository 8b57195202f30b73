"""Images that are files on this host."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import peers
from benchmarks.bench import GIB, Bench, Image, Unmeasured
from benchmarks.contest import Contender, Goal, Row, measured


def ours(bench: Bench, image: Image, dest: Path) -> Contender:
    config = bench.config(
        "file", file=f"allowed_paths = {bench.folder}\nstore_dir = {bench.home}/s"
    )
    return peers.ours(config, "download", f"file://{image.path}", dest)


def cp(image: Image, dest: Path, *words: str) -> Contender:
    name = " ".join(["cp", *words])
    return peers.synced(peers.command(name, ["cp", *words, image.path, dest]), dest)


def start_up(bench: Bench) -> Callable[[], float]:
    """Seconds of `imagebroker --version`, measured once more when they are asked for."""
    stages = [[peers.imagebroker("--version")]]

    def least() -> float:
        return min(measured(stages, 10, bench.home / "start.log").seconds for _ in range(5))

    return least


@contextmanager
def same_disk(bench: Bench) -> Iterator[Row]:
    dest = bench.dest()
    with bench.image(4 * GIB) as image:
        title = f"`file:`, {bench.size_text(4 * GIB)}, same disk, unverified"
        contenders = [ours(bench, image, dest), cp(image, dest)]
        yield Row(title, contenders, [Goal(1.1, "cp")], dest, image.checker(dest))


@contextmanager
def sparse(bench: Bench) -> Iterator[Row]:
    dest = bench.dest()
    with bench.sparse_image(8 * GIB, 0.1) as image:
        theirs = cp(image, dest, "--sparse=always")
        contenders = [ours(bench, image, dest), theirs]
        goals = [Goal(1.1, theirs.name, less=start_up(bench))]
        title = f"`file:`, {bench.size_text(8 * GIB)}, 90 % holes, start-up apart"
        yield Row(title, contenders, goals, dest, image.checker(dest))


@contextmanager
def reflink(bench: Bench) -> Iterator[Row]:
    size = bench.scaled(4 * GIB)
    with _xfs(bench, 2 * size) as folder, bench.image(4 * GIB) as original:
        image = Image(Path(shutil.copyfile(original.path, folder / "image.raw")))
        dest = folder / "dest.raw"
        contenders = [ours(bench, image, dest), cp(image, dest, "--reflink=always")]
        goals = [Goal(0.1, unit="s after start-up", less=start_up(bench))]
        title = f"`file:`, {bench.size_text(4 * GIB)}, XFS with reflink"
        yield Row(title, contenders, goals, dest, image.checker(dest))


@contextmanager
def _xfs(bench: Bench, size: int) -> Iterator[Path]:
    """A file system in a file.

    :raises Unmeasured: it cannot be made or mounted here.
    """
    file, folder = bench.folder / "xfs.img", bench.folder / "xfs"
    if os.geteuid() != 0:
        raise Unmeasured("mounting a file system needs root")
    folder.mkdir()
    with file.open("wb") as made:
        made.truncate(max(size, GIB) + GIB // 2)
    try:
        _run("mkfs.xfs", "-q", "-m", "reflink=1", str(file))
        _run("mount", "-o", "loop", str(file), str(folder))
        try:
            yield folder
        finally:
            _run("umount", str(folder))
    finally:
        file.unlink()


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise Unmeasured(f"{command[0]} is not installed: run benchmarks/install-peers") from None
    except subprocess.CalledProcessError as error:
        raise Unmeasured(f"{command[0]} failed: {error.stderr.strip()}") from error
