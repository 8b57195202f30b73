"""ORAS reads what is stored here, and what it stores is read here."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

from imagebroker.testing.hooks import random_bytes
from tests.bounds import HANGS
from tests.plugins.oci.conftest import Library
from tests.servers.fixtures import require
from tests.servers.images import make_qcow2
from tests.servers.openstack_service import cache_directory

DISK = random_bytes(3_000_000)
#: ORAS is a library; this is what its users write.
_PUSH = """
import sys, oras.client
oras.client.OrasClient(insecure=True).push(
    target=sys.argv[1], files=sys.argv[2:], disable_path_validation=True)
"""
_PULL = """
import sys, oras.client
for name in oras.client.OrasClient(insecure=True).pull(target=sys.argv[1], outdir=sys.argv[2]):
    print(name)
"""


@pytest.fixture
def python() -> Path:
    """The interpreter of an environment that has ORAS."""
    found = cache_directory() / "oras" / "bin" / "python"
    require(None if found.exists() else "install oras: tests/install-servers")
    return found


def oras(python: Path, script: str, folder: Path, *words: object) -> list[str]:
    done = subprocess.run(
        [python, "-c", script, *map(str, words)], cwd=folder, env={"HOME": str(folder)},
        capture_output=True, text=True, timeout=HANGS,
    )  # fmt: skip
    assert_that(done.returncode, Equals(0), done.stderr)
    return done.stdout.splitlines()


def target(repository: Library, tag: str) -> str:
    return f"{repository.server.address}/{repository.name}:{tag}"


def test_oras_pulls_what_was_created(repository: Library, python: Path, tmp_path: Path) -> None:
    fields = {"name": "1.0", "disk_format": "raw", "container_format": "bare"}
    broker = repository.broker()
    ref = broker.create(None, fields, DISK).ref
    broker.update(None, ref, {"tags": ["gold"]})
    (name,) = oras(python, _PULL, tmp_path, target(repository, "1.0"), tmp_path / "out")
    assert_that(Path(name).name, Equals("1.0.raw"))
    assert_that(Path(name).read_bytes() == DISK, Is(True))


@pytest.mark.parametrize("media_type", ["", ":application/vnd.kubevirt.disk.qcow2"])
def test_what_oras_has_pushed_is_read(
    repository: Library, python: Path, media_type: str, tmp_path: Path
) -> None:
    data = make_qcow2(tmp_path / "disk.qcow2", 1024 * 1024).read_bytes()
    oras(python, _PUSH, tmp_path, target(repository, "2"), f"disk.qcow2{media_type}")
    image = repository.broker().get(None, repository.ref("2"))
    assert_that(image.disk_format, Equals("qcow2"))
    assert_that(image.checksums["sha256"], Equals(hashlib.sha256(data).hexdigest()))
    assert_that(repository.downloaded(repository.ref("2")) == data, Is(True))


def test_one_of_several_files_of_oras_is_chosen_by_its_title(
    repository: Library, python: Path, tmp_path: Path
) -> None:
    (tmp_path / "one.raw").write_bytes(DISK)
    (tmp_path / "notes.txt").write_text("not a disk")
    oras(python, _PUSH, tmp_path, target(repository, "3"), "one.raw", "notes.txt")
    found = repository.downloaded(f"{repository.ref('3')}?title=one.raw")
    assert_that(found == DISK, Is(True))
    assert_that(repository.downloaded(repository.ref("3")) == DISK, Is(True))
