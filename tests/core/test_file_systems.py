"""Places that are no usual file system: clouds through FUSE, memory cards, full and other disks."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, StartsWith

from imagebroker.exceptions import ChecksumMismatch, DestinationError, TransferError
from imagebroker.transfer.store.part_file import PartFile
from tests.bounds import HANGS
from tests.conftest import Scripted
from tests.servers import mounts
from tests.servers.fixtures import require
from tests.servers.mounts import Mount

#: Random bytes and a run of zeros, more than is read ahead.
DATA = random.Random(11).randbytes(3_000_001) + bytes(5_000_000) + b"the end"
OLD = b"what was there"


def _mirrored(*options: str, folder: Path) -> AbstractContextManager[Path]:
    return mounts.mirrored(folder, *options)


_NTFS = ("mkfs.ntfs", "-Q", "-F")
_MOUNTS: dict[str, tuple[tuple[str, ...], Mount]] = {
    "cloud": (("rclone", "fusermount3"), partial(mounts.cloud, cache_mode="off")),
    "cloud with a cache": (("rclone", "fusermount3"), partial(mounts.cloud, cache_mode="writes")),
    "vfat": (
        ("mkfs.vfat",),
        partial(mounts.disk, make=("mkfs.vfat", "-F", "32"), mount=("mount", "-o", "fmask=0177")),
    ),
    "exfat": (
        ("mkfs.exfat", "mount.exfat-fuse"),
        partial(mounts.disk, make=("mkfs.exfat",), mount=("mount.exfat-fuse",)),
    ),
    "ntfs": (
        ("mkfs.ntfs", "ntfs-3g"),
        partial(mounts.disk, make=_NTFS, mount=("ntfs-3g",), size=1 << 28),
    ),
    "no chmod": (
        ("bindfs", "fusermount3"),
        partial(_mirrored, "--chmod-deny", "--perms=0755", "--xattr-none"),
    ),
    "small blocks": (
        ("mkfs.ext2",),
        partial(
            mounts.disk,
            make=("mkfs.ext2", "-q", "-b", "1024", "-N", "16"),
            mount=("mount",),
            size=20 << 30,
        ),
    ),
    "memory": ((), partial(mounts.in_memory, options="size=64m,noexec")),
    "memory without a size": ((), partial(mounts.in_memory, kind="ramfs")),
}
_WITHOUT_MODES = ["cloud", "cloud with a cache", "vfat", "exfat", "ntfs", "no chmod"]


@pytest.fixture(params=[name for name in _MOUNTS if name != "small blocks"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    programs, mount = _MOUNTS[request.param]
    require(mounts.missing(*programs))
    if request.param == "vfat" and not mounts.has_kind("vfat"):
        pytest.skip("this kernel has no vfat")
    (tmp_path / "place").mkdir()
    with mount(folder=tmp_path / "place") as mounted:
        yield mounted


def _names(folder: Path) -> list[str]:
    """A mounted cloud may list a file under its old name, too, until its upload is over."""
    ends = time.monotonic() + 60
    while True:
        names = sorted(set(os.listdir(folder)) - {"lost+found"})
        if time.monotonic() > ends or not any(map(_is_unfinished, names)):
            return names
        time.sleep(0.05)


def _is_unfinished(name: str) -> bool:
    return name.endswith(".imagebroker-part")


@pytest.mark.promise("lesser-file-systems")
def test_an_image_is_stored_whole_and_alone(scripted: Scripted, folder: Path) -> None:
    ref, _ = scripted.image(DATA)
    done = scripted.broker.download(None, ref, folder / "disk.img")
    assert_that((folder / "disk.img").read_bytes() == DATA, Equals(True))
    assert_that(done.evidence["sha256"], Equals(hashlib.sha256(DATA).hexdigest()))
    assert_that(_names(folder), Equals(["disk.img"]))


def test_a_file_is_replaced_and_another_image_after_it(scripted: Scripted, folder: Path) -> None:
    (folder / "disk.img").write_bytes(OLD)
    for data in (DATA, b"short"):
        ref, _ = scripted.image(data)
        scripted.broker.download(None, ref, folder / "disk.img")
        assert_that((folder / "disk.img").read_bytes() == data, Equals(True))
        assert_that(_names(folder), Equals(["disk.img"]))


def test_local_and_compressed_images_are_stored(
    scripted: Scripted, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "local").write_bytes(DATA)
    ref, _ = scripted.image(DATA, local_path=tmp_path / "local")
    scripted.broker.download(None, ref, folder / "local")
    ref, _ = scripted.image(gzip.compress(DATA))
    scripted.broker.download(None, ref, folder / "unpacked", decompress="gzip")
    for name in ("local", "unpacked"):
        assert_that((folder / name).read_bytes() == DATA, Equals(True))
    assert_that(_names(folder), Equals(["local", "unpacked"]))


@pytest.mark.parametrize("seekable", [True, False])
def test_a_transfer_that_breaks_goes_on_or_begins_again(
    seekable: bool, scripted: Scripted, folder: Path
) -> None:
    breaks: list[tuple[int, BaseException | None]] = [(2_000_000, None), (3_500_000, None)]
    ref, _ = scripted.image(DATA, seekable=seekable, version="v1", breaks=breaks)
    scripted.broker.download(None, ref, folder / "disk.img")
    assert_that((folder / "disk.img").read_bytes() == DATA, Equals(True))
    assert_that(_names(folder), Equals(["disk.img"]))


@pytest.mark.promise("lesser-file-systems")
def test_after_a_failure_what_was_there_is_there_and_nothing_else(
    scripted: Scripted, folder: Path
) -> None:
    (folder / "disk.img").write_bytes(OLD)
    ref, script = scripted.image(DATA)
    with pytest.raises(ChecksumMismatch):
        scripted.broker.download(None, ref, folder / "disk.img", checksum=f"sha256:{'0' * 64}")
    script.breaks = [(4_000_000, TransferError("no", retryable=False))]
    with pytest.raises(TransferError):
        scripted.broker.download(None, ref, folder / "disk.img")
    assert_that((folder / "disk.img").read_bytes(), Equals(OLD))
    assert_that(_names(folder), Equals(["disk.img"]))


@pytest.mark.promise("lesser-file-systems")
def test_without_overwrite_one_of_many_creates_the_file(scripted: Scripted, folder: Path) -> None:
    contents = [bytes([number]) * 100_000 for number in range(6)]
    refs = [scripted.image(data, f"/{number}")[0] for number, data in enumerate(contents)]
    done: list[int] = []
    failed: list[Exception] = []

    def store(number: int) -> None:
        try:
            scripted.broker.download(None, refs[number], folder / "disk.img", overwrite=False)
            done.append(number)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=store, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_that(done, HasLength(1))
    assert_that([getattr(error, "errno", error) for error in failed], Equals([errno.EEXIST] * 5))
    assert_that((folder / "disk.img").read_bytes() == contents[done[0]], Equals(True))
    assert_that(_names(folder), Equals(["disk.img"]))


def test_what_a_killed_process_left_is_swept(
    scripted: Scripted, folder: Path, tmp_path: Path
) -> None:
    program = (
        "import os, sys\n"
        "from imagebroker.transfer.store.part_file import PartFile\n"
        "part = PartFile(sys.argv[1], key='0' * 16)\n"
        "part.write(0, b'x' * 1000000)\n"
        f"os.kill(os.getpid(), {signal.SIGKILL})\n"
    )
    subprocess.run([sys.executable, "-c", program, folder / "killed"], timeout=HANGS, check=False)
    ref, _ = scripted.image(DATA)
    # A cloud stores what was written some time after the process is gone.
    for _ in range(100):
        scripted.broker.download(None, ref, folder / "disk.img")
        if _names(folder) == ["disk.img"]:
            break
    assert_that(_names(folder), Equals(["disk.img"]))


@pytest.mark.promise("lesser-file-systems")
@pytest.mark.parametrize("folder", _WITHOUT_MODES, indirect=True)
def test_a_mode_that_cannot_be_given_is_refused_before_the_first_byte(
    scripted: Scripted, folder: Path
) -> None:
    ref, script = scripted.image(DATA)
    with pytest.raises(DestinationError, match="gives each file the same mode") as caught:
        scripted.broker.download(None, ref, folder / "disk.img", file_mode=0o640)
    assert_that(caught.value.hint, Contains("--file-mode"))
    assert_that(script.reads, Equals([]))
    assert_that(_names(folder), Equals([]))


@pytest.mark.promise("lesser-file-systems")
@pytest.mark.parametrize(
    ("folder", "limit"), [("vfat", 4), ("small blocks", 17)], indirect=["folder"]
)
def test_an_image_that_is_larger_than_any_file_there_is_refused_before_the_first_byte(
    limit: int, scripted: Scripted, folder: Path
) -> None:
    ref, script = scripted.image(DATA, size=(limit << 30) + 1)
    with pytest.raises(DestinationError, match="more than a file can have there") as caught:
        scripted.broker.download(None, ref, folder / "disk.img")
    assert_that(caught.value.errno, Equals(errno.EFBIG))
    assert_that(script.reads, Equals([]))
    assert_that(_names(folder), Equals([]))


@pytest.mark.parametrize("folder", ["cloud"], indirect=True)
def test_a_cloud_that_takes_bytes_in_order_gets_what_the_cache_has_too(
    scripted: Scripted, folder: Path, tmp_path: Path
) -> None:
    cached = tmp_path / "cached"
    broker = scripted.configured(f"cache_dir = {cached}\ncache_size = 1G\n")
    digest = hashlib.sha256(DATA).hexdigest()
    ref, _ = scripted.image(DATA, version="v1", checksums={"sha256": digest})
    broker.download(None, ref, tmp_path / "elsewhere")
    broker.download(None, ref, folder / "disk.img")
    assert_that((folder / "disk.img").read_bytes() == DATA, Equals(True))


@pytest.mark.parametrize(
    ("options", "number"), [("size=64m,ro", errno.EROFS), ("size=1m", errno.ENOSPC)]
)
def test_a_place_that_cannot_take_it_is_an_error_before_the_first_byte(
    options: str, number: int, scripted: Scripted, tmp_path: Path
) -> None:
    require(mounts.missing())
    ref, script = scripted.image(DATA)
    with mounts.in_memory(tmp_path, options=options) as folder:
        with pytest.raises(DestinationError) as caught:
            scripted.broker.download(None, ref, folder / "disk.img")
        assert_that(caught.value.errno, Equals(number))
        assert_that(script.reads, Equals([]))
        assert_that(_names(folder), Equals([]))


@pytest.mark.promise("lesser-file-systems")
def test_where_a_complete_file_cannot_be_renamed_nothing_is_asked_for(
    scripted: Scripted, tmp_path: Path
) -> None:
    require(mounts.missing("bindfs", "fusermount3"))
    ref, script = scripted.image(DATA)
    with mounts.mirrored(tmp_path, "--rename-deny") as folder:
        with pytest.raises(
            DestinationError, match="cannot rename a file when it is comp"
        ) as caught:
            scripted.broker.download(None, ref, folder / "disk.img")
        assert_that(caught.value.hint, Contains("pass an opened file object"))
        assert_that(script.reads, Equals([]))
        assert_that(_names(folder), Equals([]))
        with open(folder / "disk.img", "wb") as target:
            scripted.broker.download(None, ref, target)
        assert_that((folder / "disk.img").read_bytes() == DATA, Equals(True))


@pytest.fixture
def full_cloud(tmp_path: Path) -> Iterator[Path]:
    """One that takes what is written, and says that it cannot store it when the file is closed."""
    require(mounts.missing("rclone", "fusermount3"))
    with mounts.in_memory(tmp_path, options="size=512k") as small, mounts.cloud(small, "off") as to:
        yield to


@pytest.mark.promise("lesser-file-systems")
def test_what_a_cloud_says_when_a_file_is_closed_is_an_error(full_cloud: Path) -> None:
    with PartFile(full_cloud / "disk.img", key="0" * 16) as part:
        part.write(0, DATA[:900_000])
        with pytest.raises(DestinationError):
            part.commit()
    assert_that(_names(full_cloud), Equals([]))


def test_it_is_one_where_a_shell_has_opened_the_file(full_cloud: Path, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(DATA[:900_000])
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    with open(full_cloud / "disk.img", "wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", "imagebroker", "download", f"file://{tmp_path}/image", "-"],
            env=environment, stdout=output, stderr=subprocess.PIPE, timeout=HANGS, check=False,
        )  # fmt: skip
    assert_that(done.returncode, Equals(9))
    assert_that(done.stderr.decode(), StartsWith("imagebroker: cannot write to "))


#: What a file system answers that lacks something, by the names of system calls.
_LACKING = {
    "locks": ("flock:error=ENOLCK",),
    "hard links": ("renameat2:error=EINVAL", "linkat:error=EPERM"),
    "modes": ("fchmod:error=EPERM",),
    "holes": ("fallocate:error=EOPNOTSUPP",),
    "copying": ("ioctl:error=EOPNOTSUPP", "copy_file_range:error=EXDEV"),
    "directories that can be synced": ("fsync:error=EINVAL:when=2+",),
    "extended attributes": ("getxattr,fgetxattr:error=EOPNOTSUPP",),
}


@pytest.mark.promise("lesser-file-systems")
@pytest.mark.parametrize("overwrite", ["--overwrite", "--no-overwrite"])
@pytest.mark.parametrize("lacking", _LACKING)
def test_nothing_of_this_is_needed(lacking: str, overwrite: str, tmp_path: Path) -> None:
    require(None if shutil.which("strace") else "strace is not there: run tests/install-servers")
    (tmp_path / "image").write_bytes(DATA)
    (tmp_path / "to").mkdir()
    faults = [word for fault in _LACKING[lacking] for word in ("-e", f"inject={fault}")]
    command = [
        sys.executable, "-m", "imagebroker", "download", overwrite, "--preallocate",
        f"file://{tmp_path}/image", "to/disk.img",
    ]  # fmt: skip
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    calls = ",".join(fault.partition(":")[0] for fault in _LACKING[lacking])
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", "trace", "-e", f"trace={calls}", *faults, *command],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert_that(done.returncode, Equals(0), done.stderr[-300:])
    assert_that((tmp_path / "to" / "disk.img").read_bytes() == DATA, Equals(True))
    assert_that(_names(tmp_path / "to"), Equals(["disk.img"]))
    injected = "(INJECTED)" in (tmp_path / "trace").read_text()
    rarely = (lacking == "hard links" and overwrite == "--overwrite") or lacking == "holes"
    assert_that(injected or rarely, Equals(True))
