"""The others: where they are, and how a user starts them."""

from __future__ import annotations

import compileall
import shutil
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.contest import OURS, Contender
from tests.servers.openstack_service import cache_directory

_PROGRAMS = Path(__file__).with_name("programs")
_CHECKOUT = Path(__file__).parents[1]
_INSTALL = "run benchmarks/install-peers"


def environment() -> Path:
    """The environment with the libraries."""
    return cache_directory() / "peers"


def compile_all() -> None:
    """Leave no module without byte code, theirs or ours, as pip leaves none to a user."""
    ours = Path(sysconfig.get_path("purelib"))
    theirs = environment() / "lib"
    for folder in (ours, theirs, *(_CHECKOUT / name for name in ("imagebroker", "plugins"))):
        compileall.compile_dir(folder, maxlevels=20, quiet=2)


def command(name: str, *stages: Sequence[object], needs: Sequence[str] = ()) -> Contender:
    """Programs that run one after the other, found in PATH."""
    programs = [str(stage[0]) for stage in stages]
    lost = [each for each in [*programs, *needs] if shutil.which(each) is None]
    return Contender(
        name,
        [[[str(word) for word in stage]] for stage in stages],
        missing=f"{lost[0]} is not installed: {_INSTALL}" if lost else None,
    )


def library(name: str, program: str, *arguments: object) -> Contender:
    """One of the small programs, on the peers' own Python."""
    python = environment() / "bin" / "python"
    there = (environment() / "versions").exists()
    return Contender(
        name,
        [[[str(python), str(_PROGRAMS / f"{program}.py"), *map(str, arguments)]]],
        missing=None if there else f"{name} is not installed: {_INSTALL}",
    )


def alone(algorithm: str, mebibytes: int) -> Contender:
    """Hashing as much, on our own Python."""
    program = str(_PROGRAMS / "hash_alone.py")
    return Contender(f"{algorithm} alone", [[[sys.executable, program, algorithm, str(mebibytes)]]])


def synced(contender: Contender, dest: Path) -> Contender:
    """The same, with its file on the disk at the end: our success includes that."""
    return replace(contender, stages=[*contender.stages, [["sync", str(dest)]]])


def ours(
    config: Path, *words: object, name: str = OURS, count: Callable[[], float] | None = None
) -> Contender:
    """`imagebroker` itself, from the environment that runs this."""
    return Contender(name, [[imagebroker("--config-file", config, *words)]], count=count)


def imagebroker(*words: object) -> list[str]:
    """Its command line."""
    return [str(Path(sys.executable).with_name("imagebroker")), *map(str, words)]
