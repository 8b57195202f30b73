"""A sample of every campaign; `python -m tests.faults` tries every point.

IMAGEBROKER_FAULTS_SAMPLE is the part of the points that is tried, in samples of this size: 2 is
twice as many.
"""

from __future__ import annotations

import importlib.util
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan

from tests.bounds import HANGS
from tests.faults.campaigns import CAMPAIGNS
from tests.faults.disk import Disk, Loss
from tests.faults.tally import KINDS
from tests.servers import nginx, openstack, sshd, swift
from tests.servers.fixtures import require

_ROOT = Path(__file__).parents[2]
#: The part of each campaign's points that is tried here: a few seconds of each.
SAMPLES = {
    "write-path": 0.02,
    "cuts-http": 0.01,
    "cuts-https": 0.005,
    "cuts-glance": 0.001,
    "cuts-scp": 0.02,
    "cuts-s3": 0.001,
    "cuts-swift": 0.001,
    "cuts-large": 0.01,
    "kills": 0.005,
    "power-loss": 0.03,
    "growth": 0.005,
    "missing-ranges": 0.013,
    "tenants": 0.015,
    "forks": 0.007,
    "swarm": 0.0083,
}
_NEEDS = {
    "write-path": ("strace",),
    "power-loss": ("strace",),
    "cuts-http": ("nginx",),
    "cuts-https": ("nginx",),
    "cuts-glance": ("openstack",),
    "cuts-scp": ("sshd",),
    "cuts-s3": ("swift",),
    "cuts-swift": ("swift",),
    "cuts-large": ("nginx", "openstack"),
    "kills": (),
    "growth": ("nginx", "openstack", "sshd"),
    "missing-ranges": ("nginx", "sshd"),
    "tenants": ("openstack",),
    "forks": ("nginx", "openstack", "sshd"),
    "swarm": ("nginx", "libtorrent"),
}


def missing(what: str) -> str | None:
    if what == "strace":
        return None if shutil.which(what) else "strace is not installed: apt-get install strace"
    if what == "libtorrent":
        found = importlib.util.find_spec(what)
        return None if found else "libtorrent is not installed: pip install 'imagebroker[swarm]'"
    return {"nginx": nginx, "openstack": openstack, "sshd": sshd, "swift": swift}[what].missing()


def test_every_campaign_has_a_sample() -> None:
    assert_that(sorted(SAMPLES), Equals(sorted(CAMPAIGNS)))


@pytest.mark.promise("old-or-complete", "security-29", "two-tenants")
@pytest.mark.parametrize("campaign", SAMPLES)
def test_no_promise_is_broken_at_any_point_of_a_sample(campaign: str) -> None:
    for what in _NEEDS[campaign]:
        require(missing(what))
    sample = SAMPLES[campaign] * float(os.environ.get("IMAGEBROKER_FAULTS_SAMPLE", "1"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--campaign", campaign, "--sample", str(sample),
         "--jobs", "1"],
        check=False, timeout=HANGS, capture_output=True, text=True, cwd=_ROOT,
    )  # fmt: skip
    assert_that(done.returncode, Equals(0), done.stdout + done.stderr[-5000:])
    row = next(line for line in done.stdout.splitlines() if line.startswith(f"| {campaign} |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert_that(int(cells[1].split()[0].replace(",", "")), GreaterThan(9))
    assert_that(cells[2 : 2 + len(KINDS)], Equals(["0"] * len(KINDS)))


def test_the_documented_table_names_every_campaign() -> None:
    text = (_ROOT / "docs" / "reliability.md").read_text()
    rows = re.findall(r"^\| ([a-z0-9-]+) \| [0-9,]+", text, re.MULTILINE)
    assert_that(rows, Equals([*CAMPAIGNS, "all"]))


class TestDisk:
    """The disk that may forget finds what it is there to find."""

    @pytest.fixture
    def disk(self, tmp_path: Path) -> Disk:
        (tmp_path / "image").write_bytes(b"old")
        return Disk.of(tmp_path, certain=True)

    def write(self, disk: Disk, *, sync: bool) -> None:
        root = disk.root
        disk.apply("openat", f'4<{root}>, "{_hex("part")}", O_RDWR|O_CREAT|O_EXCL, 0600', "5")
        disk.apply("pwrite64", f'5<{root}/part>, "{_hex("new image")}", 9, 0', "9")
        if sync:
            disk.apply("fsync", f"5<{root}/part>", "0")
        disk.apply("renameat", f'4<{root}>, "{_hex("part")}", 4<{root}>, "{_hex("image")}"', "0")

    def images(self, disk: Disk) -> set[bytes | None]:
        found = [dict(_files(loss)) for loss in disk.losses(random.Random(1))]
        return {each.get(f"{disk.root}/image") for each in found}

    def test_a_file_that_was_not_synced_before_its_rename_may_be_partial(self, disk: Disk) -> None:
        self.write(disk, sync=False)
        assert_that(self.images(disk), Contains(b""))

    def test_without_a_sync_of_the_directory_the_old_one_may_be_there(self, disk: Disk) -> None:
        self.write(disk, sync=True)
        assert_that(self.images(disk), Equals({b"old", b"new image"}))

    def test_after_both_syncs_it_is_the_new_one(self, disk: Disk) -> None:
        self.write(disk, sync=True)
        disk.apply("fsync", f"4<{disk.root}>", "0")
        assert_that(self.images(disk), Equals({b"new image"}))


def _hex(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def _files(loss: Loss) -> tuple[tuple[str, bytes], ...]:
    return loss[1]
