"""A process in the environment that has Nova, with this working tree on its path."""

from __future__ import annotations

import configparser
import json
import select
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.servers.openstack_service import cache_directory

ROOT = Path(__file__).parents[2]
#: Seconds that one request may take, on a machine that is busy with other tests.
PATIENCE = 300.0


def missing() -> str | None:
    """Return what to install, or None."""
    if not (environment() / "versions").exists():
        return f"Nova is not in {environment()}: run tests/install-servers"
    return None


def environment() -> Path:
    """Return the virtualenv with Nova."""
    return cache_directory() / "nova"


nova_environment = environment


class ServiceError(Exception):
    """What a request raised in the process; `kind` is the class, with its module."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


class NovaProcess:
    """Runs `nova_program.py`, which says what can be asked."""

    def __init__(
        self,
        folder: Path,
        concurrency: str = "threading",
        *,
        environment: Path | None = None,
        program: Path | None = None,
        arguments: Sequence[str] | None = None,
    ) -> None:
        """By default Nova's environment and program, which takes the concurrency."""
        self.log = folder / "service.log"
        self._answers = b""
        #: Why nothing more can be asked: a late answer would be taken for that to the next request.
        self._lost: str | None = None
        place, program = environment or nova_environment(), program or _program()
        given = [concurrency] if arguments is None else arguments
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [place / "bin" / "python", "-u", *_warnings(), program, *given],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=folder,
                env=_variables(folder, place),
            )

    def __call__(self, do: str, **arguments: Any) -> Any:
        """Ask for one thing; return what it returned.

        :raises ServiceError: it raised.
        """
        if self._lost is not None:
            raise AssertionError(self._lost)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._line())
        if "error" in answer:
            raise ServiceError(answer["error"], answer["text"])
        return answer["result"]

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        while b"\n" not in self._answers:
            ready = select.select([self._process.stdout], [], [], PATIENCE)[0]
            received = self._process.stdout.read1() if ready else b""  # type: ignore[attr-defined]
            if not received:
                self._lost = f"no answer; {self.log} ends: {self.log.read_text()[-4000:]}"
                raise AssertionError(self._lost)
            self._answers += received
        line, _, self._answers = self._answers.partition(b"\n")
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _program() -> Path:
    return Path(__file__).with_name("nova_program.py")


def _warnings() -> list[str]:
    return ["-W", "ignore"]  # Nova's own dependencies deprecate one another


def _variables(folder: Path, place: Path) -> dict[str, str]:
    """Nothing of the caller's, above all no proxies."""
    return {
        "PATH": f"{place}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(working_tree(folder / "site")),
    }


def working_tree(site: Path) -> Path:
    """A folder for PYTHONPATH in which this tree looks as if it were installed.

    Links to the packages and a dist-info with the entry points, both as setup.cfg says. Unlike an
    installation it changes nothing in the environment, needs no build tools, and is never stale.
    """
    site.mkdir()
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for package, folder in _pairs(setup["options"]["package_dir"]):
        (site / package).symlink_to(ROOT / folder)
    info = site / "imagebroker-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: imagebroker\nVersion: 0\n")
    groups = setup["options.entry_points"].items()
    (info / "entry_points.txt").write_text("".join(f"[{g}]{lines}\n" for g, lines in groups))
    return site


def _pairs(lines: str) -> list[tuple[str, str]]:
    found = [line.split("=", 1) for line in lines.strip().splitlines()]
    return [(name.strip(), value.strip()) for name, value in found]
