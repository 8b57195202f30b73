"""An image on a block device: only where it was asked for, whole, and never bootable unverified."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan, Is

import imagebroker
from imagebroker.config.settings import Settings
from imagebroker.config.tuning import Tuning
from imagebroker.exceptions import ChecksumMismatch, DestinationError, TransferError
from tests.bounds import HANGS
from tests.conftest import Scripted
from tests.scripted import Script
from tests.servers.mounts import in_memory, loop_device

MIB = 1024 * 1024
SIZE = 24 * MIB
#: Data, many zeros, data, a tail that is no whole sector.
DATA = (
    random.Random(3).randbytes(2 * MIB)
    + bytes(9 * MIB)
    + random.Random(4).randbytes(3 * MIB + 5)
    + bytes(4096 * 3)
    + b"the end"
)
OLD = b"\xa5"


MakeDevice = Callable[..., Path]


@pytest.fixture
def make_device(tmp_path: Path) -> Iterator[MakeDevice]:
    """Makes devices that are full of other bytes."""
    with ExitStack() as stack:

        def make(*options: str, size: int = SIZE) -> Path:
            file = tmp_path / f"disk{len(list(tmp_path.iterdir()))}"
            file.write_bytes(OLD * size)
            return stack.enter_context(loop_device(file, *options))

        yield make


def content(device: Path, size: int = len(DATA)) -> bytes:
    with device.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return b"".join(iter(lambda: file.read(min(MIB, size - file.tell())), b""))


@pytest.mark.parametrize("options", [(), ("--sector-size", "4096")], ids=["512", "4096"])
def test_the_image_is_on_the_device_and_what_lies_behind_it_stays(
    options: tuple[str, ...], scripted: Scripted, make_device: MakeDevice
) -> None:
    device = make_device(*options)
    ref, _ = scripted.image(DATA)
    done = scripted.broker.download(None, ref, device, to_device=True)
    assert_that(content(device) == DATA, Is(True))
    assert_that(done.evidence["sha256"], Equals(hashlib.sha256(DATA).hexdigest()))
    assert_that(done.size, Equals(len(DATA)))
    behind = content(device, SIZE)[len(DATA) + 4096 :]
    assert_that(behind == OLD * len(behind), Is(True))


def test_several_ranges_at_once_land_where_they_belong(
    make_device: MakeDevice, scripted: Scripted, tmp_path: Path
) -> None:
    config = tmp_path / "wide.conf"
    config.write_text("[imagebroker]\nenabled_schemes = scripted\n")
    tuning = Tuning(parallel_from=65536, observe=0.0, measure=0.001, smallest_range=65536)
    broker = imagebroker.Broker(Settings.from_file(config, tuning=tuning))
    device = make_device()
    ref, _ = scripted.image(DATA, chunk=10_007, parallel_reads=4, version="v1")
    broker.download(None, ref, device, to_device=True)
    assert_that(content(device) == DATA, Is(True))


def test_zeros_are_left_to_the_device(scripted: Scripted, make_device: MakeDevice) -> None:
    device = make_device()
    ref, _ = scripted.image(bytes(20 * MIB) + b"end")
    scripted.broker.download(None, ref, device, to_device=True)
    name = (Path("/sys/block") / device.name / "loop/backing_file").read_text().strip()
    assert_that(os.stat(name).st_blocks * 512 < 8 * MIB, Is(True))
    assert_that(content(device, 20 * MIB + 3) == bytes(20 * MIB) + b"end", Is(True))


@pytest.mark.parametrize("kind", ["gzip", "small", "empty tail"])
def test_other_shapes_of_images_are_stored(
    kind: str, scripted: Scripted, make_device: MakeDevice
) -> None:
    device = make_device()
    data = {"gzip": DATA, "small": b"x" * 700, "empty tail": b"y" * 5000 + bytes(2 * MIB)}[kind]
    ref, _ = scripted.image(gzip.compress(data) if kind == "gzip" else data)
    decompress = "gzip" if kind == "gzip" else None
    scripted.broker.download(None, ref, device, to_device=True, decompress=decompress)
    assert_that(content(device, len(data)) == data, Is(True))


def test_the_zeros_of_a_file_of_this_host_are_neither_written_nor_read_back(
    scripted: Scripted, make_device: MakeDevice, tmp_path: Path
) -> None:
    data = b"x" * (2 * MIB) + bytes(18 * MIB) + b"end"
    (tmp_path / "local").write_bytes(data)
    ref, _ = scripted.image(data, local_path=tmp_path / "local")
    device = make_device()
    counted = Path("/sys/block") / device.name / "stat"
    before = int(counted.read_text().split()[2])
    scripted.broker.download(None, ref, device, to_device=True)
    read = (int(counted.read_text().split()[2]) - before) * 512
    assert_that(read < 8 * MIB, Is(True))
    assert_that(content(device, len(data)) == data, Is(True))


def test_a_file_of_this_host_is_stored(
    scripted: Scripted, make_device: MakeDevice, tmp_path: Path
) -> None:
    (tmp_path / "local").write_bytes(DATA)
    ref, _ = scripted.image(DATA, local_path=tmp_path / "local")
    device = make_device()
    scripted.broker.download(None, ref, device, to_device=True)
    assert_that(content(device) == DATA, Is(True))


def test_a_cached_image_is_taken_from_the_cache(
    on_path: Path, scripted: Scripted, make_device: MakeDevice, tmp_path: Path
) -> None:
    config = tmp_path / "cached.conf"
    config.write_text(
        f"[imagebroker]\nenabled_schemes = scripted\ncache_dir = {tmp_path}/cache\n"
        "cache_size = 100 MiB\n"
    )
    broker = imagebroker.Broker(Settings.from_file(config))
    checksums = {"sha256": hashlib.sha256(DATA).hexdigest()}
    ref, _ = scripted.image(DATA, version="v1", checksums=checksums)
    broker.download(None, ref, tmp_path / "file")
    device = make_device()
    done = broker.download(None, ref, device, to_device=True)
    assert_that(done.via, Equals("cache"))
    assert_that(content(device) == DATA, Is(True))


@pytest.mark.parametrize("how", [{"overwrite": False}, {"file_mode": 0o600}])
def test_what_only_a_file_has_is_refused(
    how: dict[str, Any], scripted: Scripted, make_device: MakeDevice
) -> None:
    device = make_device(size=MIB)
    ref, script = scripted.image(DATA)
    with pytest.raises(DestinationError, match="is for files"):
        scripted.broker.download(None, ref, device, to_device=True, **how)
    with pytest.raises(DestinationError, match="not a file object"):
        scripted.broker.download(None, ref, io.BytesIO(), to_device=True)
    assert_that(script.reads, Equals([]))
    assert_that(content(device, MIB) == OLD * MIB, Is(True))


def test_without_being_asked_a_device_is_not_touched(
    scripted: Scripted, make_device: MakeDevice
) -> None:
    device = make_device()
    ref, _ = scripted.image(DATA)
    with pytest.raises(DestinationError) as caught:
        scripted.broker.download(None, ref, device)
    assert_that(caught.value.found, Equals("block device"))
    assert_that(content(device, SIZE) == OLD * SIZE, Is(True))


def test_what_is_no_device_is_refused(scripted: Scripted, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    ref, script = scripted.image(DATA)
    for name in ("file", ".", "/dev/null"):
        with pytest.raises(DestinationError, match="is not a block device"):
            scripted.broker.download(None, ref, tmp_path / name, to_device=True)
    with pytest.raises(DestinationError, match="cannot open"):
        scripted.broker.download(None, ref, tmp_path / "missing", to_device=True)
    assert_that((tmp_path / "file").read_bytes(), Equals(b"old"))
    assert_that(script.reads, Equals([]))


@pytest.mark.promise("no-unverified-device")
def test_a_device_that_is_mounted_or_read_only_or_too_small_is_refused_untouched(
    scripted: Scripted, make_device: MakeDevice, tmp_path: Path
) -> None:
    ref, _ = scripted.image(DATA)
    small = make_device(size=4 * MIB)
    with pytest.raises(DestinationError) as caught:
        scripted.broker.download(None, ref, small, to_device=True)
    assert_that(caught.value.errno, Equals(errno.ENOSPC))
    assert_that(content(small, 4 * MIB) == OLD * (4 * MIB), Is(True))
    with pytest.raises(DestinationError):
        scripted.broker.download(None, ref, make_device("--read-only"), to_device=True)
    mounted = make_device()
    subprocess.run(["mkfs.ext4", "-q", str(mounted)], check=True)
    (tmp_path / "at").mkdir()
    subprocess.run(["mount", str(mounted), str(tmp_path / "at")], check=True)
    try:
        with pytest.raises(DestinationError, match="in use") as caught:
            scripted.broker.download(None, ref, mounted, to_device=True)
        assert_that(caught.value.hint, Contains(f"lsblk {mounted}"))
    finally:
        subprocess.run(["umount", str(tmp_path / "at")], check=True)


@pytest.mark.promise("no-unverified-device")
def test_a_device_whose_image_was_not_verified_does_not_boot(
    scripted: Scripted, make_device: MakeDevice
) -> None:
    device = make_device()
    ref, script = scripted.image(DATA)
    with pytest.raises(ChecksumMismatch):
        scripted.broker.download(None, ref, device, to_device=True, checksum=f"sha256:{'0' * 64}")
    assert_that(content(device, MIB) == bytes(MIB), Is(True))
    script.breaks = [(4_000_000, TransferError("no", retryable=False))]
    with pytest.raises(TransferError):
        scripted.broker.download(None, ref, device, to_device=True)
    assert_that(content(device, MIB) == bytes(MIB), Is(True))


def test_zeros_that_a_device_cannot_hold_by_itself_are_written_and_read_back(
    scripted: Scripted, tmp_path: Path
) -> None:
    ref, script = scripted.image(DATA, chunk=65536)
    with in_memory(tmp_path, "ramfs") as mounted:  # a file there has no holes
        (mounted / "disk").write_bytes(OLD * SIZE)
        with loop_device(mounted / "disk") as device:
            scripted.broker.download(None, ref, device, to_device=True)
            assert_that(content(device) == DATA, Is(True))
            script.before_chunk = partial(disturb, device, 5 * MIB)
            with pytest.raises(DestinationError, match="returned different bytes"):
                scripted.broker.download(None, ref, device, to_device=True)
            assert_that(content(device, MIB) == bytes(MIB), Is(True))


def disturb(device: Path, place: int, offset: int) -> None:
    """Something else writes to the device, past the check that nobody does."""
    if offset >= 12 * MIB:
        with device.open("r+b", buffering=0) as file:
            os.pwrite(file.fileno(), b"other" * 1000, place)


@pytest.mark.promise("no-unverified-device")
def test_bytes_that_change_on_the_device_are_found(
    scripted: Scripted, make_device: MakeDevice
) -> None:
    device = make_device()
    ref, script = scripted.image(DATA, chunk=65536)
    script.before_chunk = partial(disturb, device, int(1.5 * MIB))
    with pytest.raises(DestinationError, match="returned different bytes"):
        scripted.broker.download(None, ref, device, to_device=True)
    assert_that(content(device, MIB) == bytes(MIB), Is(True))


def broken_off(
    scripted: Scripted, device: Path, folder: Path
) -> tuple[imagebroker.Broker, str, Script]:
    """A download that was lost, and has kept what it had; the next one is not."""
    config = folder / "device.conf"
    config.write_text(f"[imagebroker]\nenabled_schemes = scripted\nstate_dir = {folder}/state\n")
    broker = imagebroker.Broker(Settings.from_file(config, tuning=Tuning(journal_every=0.0)))
    ref, script = scripted.image(DATA, chunk=65536, version="v1")
    script.breaks = [(14_000_000, None)]
    with pytest.raises(TransferError) as caught:
        broker.download(None, ref, device, to_device=True, keep_partial=True, retries=0)
    assert_that(getattr(caught.value, "bytes_kept", 0), GreaterThan(0))
    script.breaks = []
    return broker, ref, script


@pytest.mark.promise("no-unverified-device")
@pytest.mark.parametrize("place", [int(1.5 * MIB), 5 * MIB], ids=["data", "zeros"])
def test_bytes_of_an_earlier_process_that_change_are_found(
    place: int, scripted: Scripted, make_device: MakeDevice, tmp_path: Path
) -> None:
    device = make_device()
    broker, ref, script = broken_off(scripted, device, tmp_path)
    script.before_chunk = partial(disturb, device, place)
    with pytest.raises(DestinationError, match="returned different bytes"):
        broker.download(None, ref, device, to_device=True)
    assert_that(content(device, MIB) == bytes(MIB), Is(True))


PROGRAM = """
import os, signal, sys, time
sys.path[:0] = {path!r}
import imagebroker
from imagebroker.config.settings import Settings
from imagebroker.config.tuning import Tuning
from tests.core.test_block_devices import DATA
from tests.scripted import IMAGES, Script

def maybe_die(offset):
    time.sleep(0.005)
    if offset > 12_000_000:
        os.kill(os.getpid(), signal.SIGKILL)

IMAGES["/image"] = Script(DATA, chunk=65536, version="v1", before_chunk=maybe_die)
settings = Settings.from_file({config!r}, tuning=Tuning(journal_every=0.0))
imagebroker.Broker(settings).download(
    None, "scripted://host/image", {device!r}, to_device=True, keep_partial=True
)
"""


@pytest.mark.promise("no-unverified-device")
def test_a_later_process_goes_on_where_a_killed_one_was(
    scripted: Scripted, on_path: Path, make_device: MakeDevice, tmp_path: Path
) -> None:
    device, config = make_device(), tmp_path / "killed.conf"
    config.write_text(f"[imagebroker]\nenabled_schemes = scripted\nstate_dir = {tmp_path}/state\n")
    program = PROGRAM.format(
        path=[str(on_path), os.getcwd()], config=str(config), device=str(device)
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False, timeout=HANGS)
    assert_that(ended.returncode, Equals(-signal.SIGKILL))
    assert_that(content(device, MIB) == bytes(MIB), Is(True))
    broker = imagebroker.Broker(Settings.from_file(config))
    ref, _ = scripted.image(DATA, chunk=65536, version="v1")
    done = broker.download(None, ref, device, to_device=True)
    assert_that(content(device) == DATA, Is(True))
    assert_that(done.resumed_from, GreaterThan(0))
    assert_that([each.name for each in (tmp_path / "state").glob("device-*")], Equals([]))


def test_what_was_written_over_meanwhile_is_read_again(
    scripted: Scripted, make_device: MakeDevice, tmp_path: Path
) -> None:
    device = make_device()
    broker, ref, _ = broken_off(scripted, device, tmp_path)
    with device.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"other" * 1000, int(1.5 * MIB))
    done = broker.download(None, ref, device, to_device=True)
    assert_that(done.resumed_from, Is(None))
    assert_that(content(device) == DATA, Is(True))
