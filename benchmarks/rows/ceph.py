"""From a Ceph cluster on this host: snapshots, full and sparse."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from benchmarks import peers
from benchmarks.bench import GIB, Bench, Image, Unmeasured
from benchmarks.contest import Contender, Goal, Row
from tests.servers.ceph import Ceph, missing, modules


@contextmanager
def full(bench: Bench) -> Iterator[Row]:
    with bench.image(GIB) as image, _imported(image) as server:
        title = f"rbd, {bench.size_text(GIB)}, to a file"
        yield _row(bench, server, image, title, 1.1)


@contextmanager
def sparse(bench: Bench) -> Iterator[Row]:
    """A tenth of it is data; ours verifies the holes, too."""
    with bench.sparse_image(8 * GIB, 0.1) as image, _imported(image) as server:
        title = f"rbd, {bench.size_text(8 * GIB)}, a tenth of it data, to a file"
        yield _row(bench, server, image, title, 0.5)


def _row(bench: Bench, server: Ceph, image: Image, title: str, most: float) -> Row:
    dest = bench.dest()
    lines = "".join(f"{name} = {value}\n" for name, value in server.options().items())
    config = bench.config("rbd", rbd=lines)
    words = "download", f"rbd://{server.pool}/disk@snap", dest
    export = peers.command(
        "rbd export", [*_rbd(server), "export", "--no-progress", "disk@snap", dest]
    )
    contenders = [_with_modules(peers.ours(config, *words)), peers.synced(export, dest)]
    return Row(title, contenders, [Goal(most, "rbd export")], dest, image.checker(dest))


def _with_modules(contender: Contender) -> Contender:
    """The same, with the distribution's modules."""
    env = ["env", f"PYTHONPATH={modules()}"]
    stages = [[[*env, *command] for command in stage] for stage in contender.stages]
    return replace(contender, stages=stages)


@contextmanager
def _imported(image: Image) -> Iterator[Ceph]:
    if problem := missing():
        raise Unmeasured(problem)
    if modules() is None:
        raise Unmeasured("the distribution's python3-rbd is not for this Python")
    with Ceph() as server:
        for words in (
            ["import", "--no-progress", str(image.path), "disk"], ["snap", "create", "disk@snap"],
        ):  # fmt: skip
            command = [*_rbd(server), *words]
            subprocess.run(command, check=True, capture_output=True, timeout=600)
        yield server


def _rbd(server: Ceph) -> list[str]:
    options = server.options()
    return [
        "rbd", "--conf", options["ceph_conf"], "--id", server.user, "--keyring", options["keyring"],
        "--pool", server.pool,
    ]  # fmt: skip
