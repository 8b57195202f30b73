"""What pip installs without any extra is enough for the main job."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

from tests.bounds import HANGS
from tests.servers.fixtures import require
from tests.servers.images import make_qcow2


@pytest.fixture(scope="module")
def command(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command in an environment that has nothing but what the distribution asks for."""
    folder = tmp_path_factory.mktemp("plain")
    venv.create(folder, symlinks=True)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet",
         "--no-compile", "--disable-pip-version-check", sources],
        check=False, capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    if done.returncode:
        require(f"imagebroker cannot be installed from here: {done.stderr.strip()[-500:]}")
    return folder / "bin" / "imagebroker"


def test_a_real_disk_is_stored_listed_and_downloaded(
    command: Path, qemu_img: None, tmp_path: Path
) -> None:
    disk = make_qcow2(tmp_path / "disk.qcow2", 16 * 1024 * 1024)

    def run(*words: str) -> str:
        done = subprocess.run(
            [command, *words], cwd=tmp_path, check=False, capture_output=True, text=True,
            timeout=HANGS, env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        )  # fmt: skip
        assert_that(done.returncode, Equals(0), done.stderr[-2000:])
        return done.stdout

    ref = run("create", "--file", disk.name, "-f", "value", "-c", "ref").strip()
    assert_that(run("list", "-f", "value", "-c", "ref").split(), Equals([ref]))
    run("download", ref, "copy.qcow2")
    assert_that((tmp_path / "copy.qcow2").read_bytes(), Equals(disk.read_bytes()))
