"""`download --convert raw`."""

from __future__ import annotations

import hashlib
import json
import subprocess

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, StartsWith

from tests.cli.conftest import Inside
from tests.conversion.disks import DISK, made
from tests.conversion.programs import path_without


@pytest.fixture
def ref(imagebroker: Inside) -> str:
    (imagebroker.work / "disk.qcow2").write_bytes(made("qcow2", imagebroker.work))
    ref: str = imagebroker("create", "--file", "disk.qcow2", "-f", "json").record["ref"]
    return ref


def test_the_summary_names_both_digests(imagebroker: Inside, ref: str) -> None:
    done = imagebroker("download", ref, "disk.raw", "--convert", "raw")
    image = (imagebroker.work / "disk.qcow2").read_bytes()
    assert_that(done.status, Equals(0))
    assert_that(done.stderr, StartsWith("imagebroker: stored disk.raw: 32.0 MiB from "))
    assert_that(done.stderr, Contains(f"sha256:{hashlib.sha256(image).hexdigest()} of the qcow2"))
    assert_that(done.stderr, Contains(f"sha256:{hashlib.sha256(DISK).hexdigest()} of the raw disk"))
    assert_that((imagebroker.work / "disk.raw").read_bytes() == DISK, Is(True))


def test_the_record_has_what_was_converted(imagebroker: Inside, ref: str) -> None:
    done = imagebroker("download", ref, "disk.raw", "--convert", "raw", "-f", "json")
    image = (imagebroker.work / "disk.qcow2").read_bytes()
    found = json.loads(done.stdout)
    expected = {
        "size": len(DISK),
        "disk_format": "raw",
        "converted_from": "qcow2",
        "converted_size": len(image),
        "sha256": hashlib.sha256(image).hexdigest(),
        "raw_sha256": hashlib.sha256(DISK).hexdigest(),
    }
    assert_that({name: found.get(name) for name in expected}, Equals(expected))


def test_without_a_name_it_ends_in_raw(imagebroker: Inside) -> None:
    (imagebroker.work / "from").mkdir()
    (imagebroker.work / "from" / "disk.QCOW2").write_bytes(made("qcow2", imagebroker.work))
    url = f"file://{imagebroker.work}/from/disk.QCOW2"
    assert_that(imagebroker("download", url, "--convert", "raw").status, Equals(0))
    assert_that((imagebroker.work / "disk.raw").read_bytes() == DISK, Is(True))


def test_without_a_name_it_is_up_to_date_or_kept(imagebroker: Inside, ref: str) -> None:
    """The image that a disk was taken out of is another file, though its digest is known."""
    runs = [imagebroker("download", "disk.qcow2", "--convert", "raw") for _ in range(2)]
    assert_that([run.status for run in runs], Equals([0, 0]), runs[1].stderr)
    assert_that(runs[1].stderr, StartsWith("imagebroker: disk.raw is up to date: 32.0 MiB"))
    image = (imagebroker.work / "disk.qcow2").read_bytes()
    (imagebroker.work / "disk.raw").write_bytes(image)
    assert_that(imagebroker("download", "disk.qcow2", "--convert", "raw").status, Equals(9))
    assert_that((imagebroker.work / "disk.raw").read_bytes() == image, Is(True))


def test_to_standard_output_nothing_is_converted(imagebroker: Inside, ref: str) -> None:
    done = imagebroker("download", ref, "-", "--convert", "raw")
    assert_that((done.status, done.stdout), Equals((2, b"")))
    assert_that(done.stderr, Contains("--convert needs a file or a device"))


def test_a_host_without_bubblewrap_says_what_to_install(
    imagebroker: Inside, ref: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", path_without(imagebroker.work / "bin", "bwrap"))
    done = imagebroker("download", ref, "disk.raw", "--convert", "raw")
    assert_that(done.stderr, Contains("bwrap is not installed"))
    assert_that(done.stderr, Contains("hint: install bubblewrap"))
    assert_that((imagebroker.work / "disk.raw").exists(), Is(False))


def test_an_unsafe_image_ends_with_the_status_of_unsafe_images(imagebroker: Inside) -> None:
    (imagebroker.work / "base").write_bytes(DISK)
    command = "qemu-img create -q -f qcow2 -F raw -b base unsafe.qcow2"
    subprocess.run(command.split(), cwd=imagebroker.work, check=True)
    url = f"file://{imagebroker.work}/unsafe.qcow2"
    done = imagebroker("download", url, "disk.raw", "--convert", "raw")
    assert_that(done.status, Equals(6))
    assert_that(done.stderr, Contains("backing file"))
