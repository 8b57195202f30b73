"""An environment in which a document's commands may install things."""

from __future__ import annotations

import sysconfig
import venv
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh virtual environment that sees all that is installed here.

    What is installed into it is seen by nobody else.
    """
    folder = tmp_path_factory.mktemp("venv")
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    here = sysconfig.get_path("purelib")
    there = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (there / "outer.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    scripts = folder / "bin"
    for name in ("imagebroker", "pip"):
        script = scripts / name
        script.write_text(f'#!/bin/sh\nexec "{scripts}/python" -m {name} "$@"\n')
        script.chmod(0o755)
    return scripts
