"""A block device that fails midway: an error that says so, and nothing on it that could boot."""

from __future__ import annotations

import errno
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

from imagebroker.exceptions import DestinationError
from tests.conftest import Scripted
from tests.servers.mounts import in_memory, loop_device

MIB = 1024 * 1024
SIZE, GOOD = 24 * MIB, 8 * MIB
DATA = random.Random(5).randbytes(16 * MIB)


@contextmanager
def thinly_provisioned(folder: Path) -> Iterator[Path]:
    """A device over a file system that is smaller: writes beyond what is free fail."""
    with (
        in_memory(folder, options=f"size={GOOD}") as mounted,
        (mounted / "disk").open("wb") as disk,
    ):
        disk.truncate(SIZE)
        with loop_device(mounted / "disk") as device:
            yield device


@contextmanager
def with_bad_sectors(folder: Path) -> Iterator[Path]:
    """A device of which all but the beginning fails, by the kernel's device mapper."""
    dmsetup = shutil.which("dmsetup", path="/usr/sbin:/sbin:/usr/bin")
    if dmsetup is None or "device-mapper" not in Path("/proc/misc").read_text():
        pytest.skip("this kernel has no device mapper, or dmsetup is not installed")
    file, name = folder / "disk", f"imagebroker-{folder.name}"
    with file.open("wb") as disk:
        disk.truncate(SIZE)
    good, bad = GOOD // 512, (SIZE - GOOD) // 512
    with loop_device(file) as below, ExitStack() as undo:
        table = f"0 {good} linear {below} 0\n{good} {bad} error\n"
        subprocess.run([dmsetup, "create", name], input=table, text=True, check=True)
        undo.callback(subprocess.run, [dmsetup, "remove", name], check=True)
        yield Path("/dev/mapper") / name


@pytest.mark.parametrize("device", [thinly_provisioned, with_bad_sectors])
@pytest.mark.parametrize("kept", [False, True])
def test_a_device_that_fails_midway_has_no_image_that_could_boot(
    device: object, kept: bool, scripted: Scripted, tmp_path: Path
) -> None:
    ref, _ = scripted.image(DATA, version="1")
    with device(tmp_path) as path:  # type: ignore[operator]
        with pytest.raises(DestinationError) as caught:
            scripted.broker.download(None, ref, path, to_device=True, keep_partial=kept)
        assert_that(caught.value.errno in (errno.EIO, errno.ENOSPC), Is(True))
        assert_that(str(caught.value), Contains(str(path)))
        wanted = "extend the pool" if caught.value.errno == errno.ENOSPC else "dmesg"
        assert_that(caught.value.hint, Contains(wanted))
        with path.open("rb") as disk:
            assert_that(disk.read(MIB), Equals(bytes(MIB)))
