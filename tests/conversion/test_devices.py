"""The disk in an image on a block device: no byte of it before the image is verified, and no boot sector
before the disk is."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

from imagebroker.exceptions import (
    ChecksumMismatch,
    DestinationError,
    FormatError,
    ImageBrokerError,
    TransferError,
)
from tests.conftest import Scripted
from tests.conversion.disks import DISK, MIB, made, sha256
from tests.conversion.programs import INFO, path_with
from tests.servers.mounts import loop_device

SIZE = len(DISK) + 2 * MIB
OLD = b"\xa5"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """One that is full of other bytes."""
    (tmp_path / "file").write_bytes(OLD * SIZE)
    with loop_device(tmp_path / "file") as found:
        yield found


@pytest.fixture
def scratch(tmp_path: Path, scripted: Scripted) -> Path:
    (tmp_path / "scratch").mkdir()
    scripted.configured(f"convert_dir = {tmp_path}/scratch")
    return tmp_path / "scratch"


@pytest.mark.parametrize("kind", ["qcow2-compressed", "vmdk-stream", "vhdx"])
def test_the_disk_is_on_the_device_and_what_lies_behind_it_stays(
    kind: str, device: Path, scratch: Path, scripted: Scripted, tmp_path: Path
) -> None:
    image = made(kind, tmp_path)
    ref, _ = scripted.image(image, chunk=100_000)
    done = scripted.broker.download(None, ref, device, to_device=True, convert="raw")
    content = device.read_bytes()
    assert_that(content[: len(DISK)] == DISK, Is(True))
    assert_that(content[len(DISK) :] == OLD * (2 * MIB), Is(True))
    assert_that((done.path, done.size), Equals((device, len(DISK))))
    found = {name: done.evidence[name] for name in ("sha256", "raw_sha256")}
    assert_that(found, Equals({"sha256": sha256(image), "raw_sha256": sha256(DISK)}))
    assert_that(list(scratch.iterdir()), Equals([]))


def test_a_compressed_file_is_unpacked_and_converted(
    device: Path, scratch: Path, scripted: Scripted, tmp_path: Path
) -> None:
    ref, _ = scripted.image(gzip.compress(made("qcow2", tmp_path), 1), chunk=100_000)
    scripted.broker.download(None, ref, device, to_device=True, convert="raw", decompress="gzip")
    assert_that(device.read_bytes()[: len(DISK)] == DISK, Is(True))


@pytest.mark.parametrize("record", [{}, {"disk_format": "raw"}], ids=["undeclared", "declared"])
def test_a_plain_disk_is_written_as_it_is(
    record: dict[str, Any], device: Path, scratch: Path, scripted: Scripted
) -> None:
    stored: list[int] = []

    def look(progress: Any) -> None:
        stored.extend(path.stat().st_size for path in scratch.iterdir())

    ref, _ = scripted.image(DISK, chunk=100_000, record=record)
    done = scripted.broker.download(None, ref, device, to_device=True, convert="raw", progress=look)
    assert_that(device.read_bytes()[: len(DISK)] == DISK, Is(True))
    assert_that(done.evidence["sha256"], Equals(sha256(DISK)))
    if record:  # then it is known before the first byte that nothing is to be converted
        assert_that(set(stored), Equals({0}))
    assert_that(list(scratch.iterdir()), Equals([]))


def test_what_is_declared_raw_and_is_not_is_refused(
    device: Path, scratch: Path, scripted: Scripted, tmp_path: Path
) -> None:
    ref, _ = scripted.image(made("qcow2", tmp_path), record={"disk_format": "raw"})
    with pytest.raises(FormatError):
        scripted.broker.download(None, ref, device, to_device=True, convert="raw")


def test_nothing_is_written_before_the_image_is_verified(
    device: Path, scratch: Path, scripted: Scripted, tmp_path: Path
) -> None:
    ref, _ = scripted.image(made("qcow2", tmp_path), checksums={"sha256": sha256(b"other")})
    with pytest.raises(ChecksumMismatch):
        scripted.broker.download(None, ref, device, to_device=True, convert="raw")
    assert_that(device.read_bytes() == OLD * SIZE, Is(True))
    assert_that(list(scratch.iterdir()), Equals([]))


def test_a_conversion_that_fails_leaves_no_boot_sector(
    device: Path, scratch: Path, scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = made("qcow2", tmp_path)
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin", INFO + "exit 1"))
    ref, _ = scripted.image(image, chunk=100_000)
    with pytest.raises(FormatError):
        scripted.broker.download(None, ref, device, to_device=True, convert="raw")
    assert_that(device.read_bytes()[:MIB] in (bytes(MIB), OLD * MIB), Is(True))
    assert_that(list(scratch.iterdir()), Equals([]))


def test_a_device_that_is_too_small_for_the_disk_is_left_as_it_is(
    scratch: Path, scripted: Scripted, tmp_path: Path
) -> None:
    (tmp_path / "small").write_bytes(OLD * (8 * MIB))
    ref, _ = scripted.image(made("qcow2", tmp_path), chunk=100_000)
    with loop_device(tmp_path / "small") as device:
        with pytest.raises(DestinationError) as caught:
            scripted.broker.download(None, ref, device, to_device=True, convert="raw")
        assert_that(str(caught.value), Contains(str(len(DISK))))
        assert_that(device.read_bytes() == OLD * (8 * MIB), Is(True))


def test_a_transfer_that_broke_goes_on(
    device: Path, scratch: Path, scripted: Scripted, tmp_path: Path
) -> None:
    image = made("qcow2", tmp_path)
    half = len(image) // 2
    ref, _ = scripted.image(
        image, chunk=10_000, version="1",
        breaks=[(half, None), (half + 1, TransferError("no", retryable=False))],
    )  # fmt: skip
    how: dict[str, Any] = {"to_device": True, "convert": "raw", "keep_partial": True}
    with pytest.raises(TransferError):
        scripted.broker.download(None, ref, device, **how)
    assert_that(device.read_bytes() == OLD * SIZE, Is(True))
    done = scripted.broker.download(None, ref, device, **how)
    assert_that(device.read_bytes()[: len(DISK)] == DISK, Is(True))
    assert_that(done.resumed_from is not None and done.resumed_from >= half, Is(True))
    assert_that(list(scratch.iterdir()), Equals([]))


def test_a_cached_image_needs_no_scratch(
    device: Path, scratch: Path, scripted: Scripted, tmp_path: Path
) -> None:
    image = made("qcow2", tmp_path)
    scripted.configured(f"convert_dir = {scratch}\ncache_dir = {tmp_path}/cache\ncache_size = 1G")
    ref, _ = scripted.image(image, chunk=100_000, version="1")
    scripted.broker.download(None, ref, tmp_path / "a")
    blocks: list[int] = []

    def look(progress: Any) -> None:
        blocks.extend(path.stat().st_blocks for path in scratch.iterdir())

    done = scripted.broker.download(None, ref, device, to_device=True, convert="raw", progress=look)
    assert_that(device.read_bytes()[: len(DISK)] == DISK, Is(True))
    assert_that((done.via, set(blocks)), Equals(("cache", {0})))


def test_where_the_scratch_cannot_be_made_the_device_is_left_as_it_is(
    device: Path, scripted: Scripted, tmp_path: Path
) -> None:
    scripted.configured(f"convert_dir = {tmp_path}/missing")
    ref, _ = scripted.image(made("qcow2", tmp_path))
    with pytest.raises(ImageBrokerError) as caught:
        scripted.broker.download(None, ref, device, to_device=True, convert="raw")
    assert_that(caught.value.id, Equals("destination-error"))
    assert_that(device.read_bytes() == OLD * SIZE, Is(True))
