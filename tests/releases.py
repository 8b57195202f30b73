"""Libraries in another release than the one that is installed: the oldest and the newest allowed."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from testtools.assertions import assert_that
from testtools.matchers import Equals

from tests.bounds import HANGS
from tests.servers.fixtures import require

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Library:
    """A library that an extra asks for, and the tests that every release of it has to pass."""

    extra: str
    distribution: str
    module: str
    core: Sequence[str]

    @property
    def requirement(self) -> str:
        """What the extra asks for."""
        parser = configparser.ConfigParser()
        parser.read(ROOT / "setup.cfg")
        lines = parser["options.extras_require"][self.extra].split()
        return next(line for line in lines if line.startswith(self.distribution))

    @property
    def oldest(self) -> str:
        """The oldest release that it allows."""
        return self.requirement.partition(">=")[2]

    def installed(self, wanted: str, folder: Path) -> Path:
        """A folder with one release; what it depends on is that of this environment."""
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
             "--no-deps", "--target", folder, wanted],
            check=False, capture_output=True, text=True, timeout=HANGS,
        )  # fmt: skip
        if done.returncode:
            require(f"{wanted} cannot be installed from here: {done.stderr.strip()[-300:]}")
        return folder

    def release(self, folder: Path) -> str:
        """The release that is in a folder."""
        name = self.distribution.replace("-", "_")
        return next(folder.glob(f"{name}-*.dist-info")).name.split("-")[1].removesuffix(".dist")

    def passes_core(self, folder: Path, **environment: str) -> None:
        """The core of the suite passes with what is in a folder."""
        with_it = {**os.environ, "PYTHONPATH": str(folder), **environment}
        with_it.pop("PYTEST_XDIST_WORKER", None)
        code = f"import {self.module} as it; print(it.__file__)"
        shown = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env=with_it, check=False, capture_output=True, text=True, timeout=HANGS,
        )  # fmt: skip
        found = Path(shown.stdout.strip() or "nothing").parent.parent
        assert_that(found, Equals(folder), shown.stderr[-2000:])
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "pytest", "-q", "-p", "no:cacheprovider",
             "-p", "no:xdist", "-k", "not gibibytes", *self.core],
            cwd=ROOT, env=with_it, check=False, capture_output=True, text=True, timeout=HANGS,
        )  # fmt: skip
        assert_that(done.returncode, Equals(0), done.stdout[-6000:] + done.stderr[-2000:])
