"""What `convert="raw"` stores is what qemu-img itself makes of the image, byte for byte."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is, LessThan

from imagebroker.config.tuning import Tuning
from tests.conftest import Scripted
from tests.conversion.disks import DISK, KINDS, converted, made, sha256


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.promise("security-6")
@pytest.mark.parametrize("kind", KINDS)
def test_the_disk_is_that_of_qemu_img_and_the_evidence_names_both_digests(
    kind: str, scripted: Scripted, tmp_path: Path
) -> None:
    image = made(kind, tmp_path)
    theirs = converted(image, kind, tmp_path)
    (tmp_path / "out").mkdir()
    dest = tmp_path / "out" / "disk.raw"
    ref, _ = scripted.image(image, chunk=100_000, checksums={"sha256": sha256(image)})
    done = scripted.broker.download(None, ref, dest, convert="raw")
    assert_that(dest.read_bytes() == theirs, Is(True))
    expected = {
        "sha256": sha256(image),
        "raw_sha256": sha256(theirs),
        "disk_format": "raw",
        "virtual_size": len(theirs),
        "converted_from": kind.partition("-")[0],
        "converted_size": len(image),
        "checked_against": ("sha256 of the record",),
    }
    assert_that({name: done.evidence.get(name) for name in expected}, Equals(expected))
    assert_that((done.size, done.path), Equals((len(theirs), dest)))
    assert_that(names(dest.parent), Equals(["disk.raw"]))
    assert_that(dest.stat().st_blocks * 512, LessThan(8 << 20))  # of 32 MiB


@pytest.mark.parametrize("size", [0, 512, 65536 + 512, 1 << 20])
def test_disks_of_odd_sizes_keep_them(size: int, scripted: Scripted, tmp_path: Path) -> None:
    disk = DISK[:size]
    image = made("qcow2", tmp_path, disk)
    ref, _ = scripted.image(image)
    done = scripted.broker.download(None, ref, tmp_path / "out", convert="raw")
    assert_that((tmp_path / "out").read_bytes() == disk, Is(True))
    assert_that((done.size, done.evidence["raw_sha256"]), Equals((size, sha256(disk))))


@pytest.mark.parametrize("disk", [DISK, b"\xeb" + bytes(509) + b"\x55\xaa" + DISK[512:]])
def test_a_plain_disk_is_stored_as_it_is_without_any_program(
    disk: bytes, scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no program is found
    ref, _ = scripted.image(disk, chunk=1_000_000)
    done = scripted.broker.download(None, ref, tmp_path / "out", convert="raw")
    assert_that((tmp_path / "out").read_bytes() == disk, Is(True))
    assert_that(done.evidence["sha256"], Equals(sha256(disk)))
    assert_that("raw_sha256" in done.evidence, Is(False))
    assert_that([name for name in names(tmp_path) if name.startswith(".")], Equals([]))


def test_a_compressed_file_is_unpacked_and_converted(scripted: Scripted, tmp_path: Path) -> None:
    image = made("qcow2", tmp_path)
    packed = gzip.compress(image, 1)
    ref, _ = scripted.image(packed, chunk=100_000, checksums={"sha256": sha256(packed)})
    done = scripted.broker.download(None, ref, tmp_path / "out", decompress="auto", convert="raw")
    assert_that((tmp_path / "out").read_bytes() == DISK, Is(True))
    found = {name: done.evidence[name] for name in ("sha256", "decompressed_sha256", "raw_sha256")}
    expected = {
        "sha256": sha256(packed),
        "decompressed_sha256": sha256(image),
        "raw_sha256": sha256(DISK),
    }
    assert_that(found, Equals(expected))


def test_a_file_of_this_host_is_hashed_too(scripted: Scripted, tmp_path: Path) -> None:
    image = made("qcow2", tmp_path)
    ref, _ = scripted.image(image, local_path=tmp_path / "made")
    done = scripted.broker.download(None, ref, tmp_path / "out", convert="raw")
    assert_that((tmp_path / "out").read_bytes() == DISK, Is(True))
    assert_that(done.evidence["sha256"], Equals(sha256(image)))
    assert_that((tmp_path / "made").read_bytes() == image, Is(True))


def test_a_transfer_that_broke_goes_on_and_is_converted(scripted: Scripted, tmp_path: Path) -> None:
    image = made("qcow2", tmp_path)
    half = len(image) // 2
    ref, _ = scripted.image(
        image, chunk=10_000, version="1", breaks=[(half, None), (half + 1, KeyboardInterrupt())]
    )
    dest = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        scripted.broker.download(None, ref, dest, convert="raw", keep_partial=True)
    done = scripted.broker.download(None, ref, dest, convert="raw", keep_partial=True)
    assert_that(dest.read_bytes() == DISK, Is(True))
    assert_that(done.resumed_from is not None and done.resumed_from >= half, Is(True))
    assert_that([name for name in names(tmp_path) if name.startswith(".")], Equals([]))


def test_progress_is_that_of_the_transfer_and_then_that_of_the_conversion(
    scripted: Scripted, tmp_path: Path
) -> None:
    image = made("qcow2", tmp_path)
    seen: list[Any] = []
    ref, _ = scripted.image(image, chunk=100_000)
    broker = scripted.configured(tuning=Tuning(progress_every=0.0))
    broker.download(None, ref, tmp_path / "out", convert="raw", progress=seen.append)
    phases = list(dict.fromkeys(each.phase for each in seen))
    assert_that(phases[-3:], Equals(["convert", "verify", "done"]))
    converting = [each for each in seen if each.phase == "convert"]
    positions = [each.done for each in converting]
    assert_that(positions, Equals(sorted(positions)))
    assert_that((positions[-1], converting[-1].total), Equals((len(DISK), len(DISK))))
