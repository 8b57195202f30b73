"""Files of this host as sources: those that change, have no size, or are their own destination."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, StartsWith

import imagebroker
from imagebroker.exceptions import DestinationError, ImageChanged, PolicyViolation, TransferError
from tests.bounds import HANGS

DATA = bytes(range(256)) * 4000
#: Files of which their file system says that they have no bytes.
NO_SIZE = ("/proc/version", "/proc/cpuinfo", "/proc/sys/kernel/ostype")
#: One of which it says a page, and which has less.
WRONG_SIZE = "/sys/kernel/uevent_seqnum"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def broker(tmp_path: Path) -> imagebroker.Broker:
    config = tmp_path / "conf"
    config.write_text(
        "[imagebroker]\nenabled_schemes = file\nretries = 0\n"
        f"[backend:file]\nallowed_paths = {tmp_path},/proc,/sys\nstore_dir = {tmp_path}/store\n"
    )
    return imagebroker.Broker.from_config(config)


def _rewrite(path: Path) -> None:
    """Change a byte, and put the time of the last change back."""
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(len(DATA) // 2)
        file.write(b"\xee")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def _append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


@pytest.mark.promise("security-28")
@pytest.mark.parametrize("change", [_rewrite, _touch, _append])
@pytest.mark.parametrize("in_kernel", [True, False])
def test_a_file_that_is_written_to_while_it_is_copied_is_no_image(
    change: Callable[[Path], None], in_kernel: bool, broker: imagebroker.Broker, image: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real = os.copy_file_range

    def copy(*args: int) -> int:
        change(image)
        if not in_kernel:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return real(*args)

    monkeypatch.setattr(os, "copy_file_range", copy)
    with pytest.raises(ImageChanged, match="was modified while it was read"):
        broker.download(None, f"file://{image}", tmp_path / "dest")
    assert_that((tmp_path / "dest").exists(), Equals(False))


@pytest.mark.promise("security-28")
@pytest.mark.parametrize("change", [_rewrite, _touch, _append])
def test_a_file_that_is_written_to_while_it_is_read_is_no_image(
    change: Callable[[Path], None], broker: imagebroker.Broker, image: Path
) -> None:
    os.truncate(image, 64 << 20)  # more than is read ahead
    with broker.open(None, f"file://{image}") as reader:
        reader.read(1)
        change(image)
        with pytest.raises(ImageChanged, match="was modified while it was read"):
            while reader.read(1 << 20):
                pass


@pytest.mark.parametrize("step", ["rename", "link", "unlink", "chmod"])
def test_a_file_that_gets_another_name_or_mode_has_the_same_bytes(
    step: str, broker: imagebroker.Broker, image: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real = os.copy_file_range

    def copy(*args: int) -> int:
        if image.exists():
            {
                "rename": lambda: os.rename(image, tmp_path / "other"),
                "link": lambda: os.link(image, tmp_path / "other"),
                "unlink": lambda: os.unlink(image),
                "chmod": lambda: os.chmod(image, 0o400),
            }[step]()
        return real(*args)

    monkeypatch.setattr(os, "copy_file_range", copy)
    broker.download(None, f"file://{image}", tmp_path / "dest")
    assert_that((tmp_path / "dest").read_bytes(), Equals(DATA))


@pytest.mark.promise("files-without-size")
@pytest.mark.parametrize("path", NO_SIZE)
def test_a_file_without_a_size_is_refused_unless_that_is_allowed(
    path: str, broker: imagebroker.Broker, tmp_path: Path
) -> None:
    dest = tmp_path / "dest"
    with pytest.raises(PolicyViolation, match="how many bytes"):
        broker.download(None, f"file://{path}", dest)
    with open(dest, "wb") as target, pytest.raises(PolicyViolation, match="how many bytes"):
        broker.download(None, f"file://{path}", target)
    done = broker.download(None, f"file://{path}", dest, allow_unknown_size=True)
    assert_that(dest.read_bytes(), Equals(Path(path).read_bytes()))
    assert_that(done.size, Equals(len(Path(path).read_bytes())))
    assert_that(broker.get(None, f"file://{path}").size, Equals(None))


@pytest.mark.promise("files-without-size")
def test_a_file_with_less_than_its_size_is_refused(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    ref, dest = f"file://{WRONG_SIZE}", tmp_path / "dest"
    with pytest.raises(TransferError, match="its file system reports 4096") as caught:
        broker.download(None, ref, dest)
    assert_that(caught.value.retryable, Equals(False))
    assert_that(dest.exists(), Equals(False))
    with open(dest, "wb") as target, pytest.raises(TransferError, match="file system reports 4096"):
        broker.download(None, ref, target)


def test_an_empty_file_is_an_empty_image(broker: imagebroker.Broker, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert_that(broker.get(None, f"file://{tmp_path}/empty").size, Equals(0))
    assert_that(broker.download(None, f"file://{tmp_path}/empty", tmp_path / "x").size, Equals(0))


@pytest.mark.parametrize("mode", ["wb", "ab", "r+b"])
@pytest.mark.parametrize("name", ["image", "hard link", "symbolic link"])
def test_an_image_is_not_written_into_itself(
    mode: str, name: str, broker: imagebroker.Broker, image: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    if name == "hard link":
        os.link(image, path)
    elif name == "symbolic link":
        path.symlink_to("image")
    with open(path, mode) as target:
        with pytest.raises(DestinationError, match="is the file that") as caught:
            broker.download(None, f"file://{image}", target)
    assert_that(caught.value.bytes_written, Equals(0))
    assert_that(image.read_bytes(), Equals(b"" if mode == "wb" else DATA))


def test_a_stored_image_is_not_written_into_itself(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    created = broker.create(None, {"name": "x"}, DATA)
    path = tmp_path / "store" / "images" / str(created.id)
    with open(path, "ab") as target, pytest.raises(DestinationError, match="is the file that"):
        broker.download(None, created.ref, target)
    assert_that(path.read_bytes(), Equals(DATA))


def test_over_its_own_path_an_image_is_replaced_by_a_copy(
    broker: imagebroker.Broker, image: Path
) -> None:
    before = image.stat().st_ino
    with open(image, "rb"):
        broker.download(None, f"file://{image}", image)
        assert_that(image.read_bytes(), Equals(DATA))
        assert_that(image.stat().st_ino == before, Equals(False))


def test_the_command_refuses_as_cat_does(image: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    program = 'exec "$0" -m imagebroker download "file://$1" - >>"$1"'
    done = subprocess.run(
        ["sh", "-c", program, sys.executable, image],
        env=environment, capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert_that(done.returncode, Equals(9))
    assert_that(done.stderr, StartsWith("imagebroker: standard output is the file that file://"))
    assert_that(done.stderr, Contains("hint: write to another file, and rename it afterwards"))
    assert_that(image.read_bytes(), Equals(DATA))
