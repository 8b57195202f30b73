"""What is at a destination: what can be replaced is, everything else is refused before any byte."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker.exceptions import DestinationError
from tests.bounds import HANGS
from tests.conftest import Scripted
from tests.servers import mounts
from tests.servers.fixtures import require

DATA = bytes(range(256)) * 40


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            made.bind(f"/proc/self/fd/{folder}/{path.name}")  # a path of any length
        finally:
            os.close(folder)


def _directory(path: Path) -> None:
    path.mkdir()


def _device(path: Path) -> None:
    path.symlink_to("/dev/full")


def _volume(path: Path) -> None:
    """A block device; where there is none, or no right to make one, another kind of device."""
    try:
        os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(7, 0))
    except PermissionError:
        path.symlink_to("/dev/null")


_KINDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "fifo": (_fifo, "FIFO"),
    "socket": (_socket, "socket"),
    "directory": (_directory, "directory"),
    "device": (_device, "character device"),
    "volume": (_volume, "device"),
}


def _refused(scripted: Scripted, dest: Path, saying: str, **how: bool) -> DestinationError:
    """What a download to `dest` raises, before any byte and without touching it."""
    before = os.lstat(dest)
    names = sorted(os.listdir(dest.parent))
    ref, script = scripted.image(DATA)
    with pytest.raises(DestinationError) as caught:
        scripted.broker.download(None, ref, dest, **how)
    assert_that(str(caught.value), Contains(saying))
    assert_that((script.opened, script.reads), Equals((0, [])))
    assert_that(os.path.samestat(os.lstat(dest), before), Equals(True))
    assert_that(sorted(os.listdir(dest.parent)), Equals(names))
    return caught.value


@pytest.mark.promise("destination-is-replaced")
@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("links", [0, 1, 3, 39])
def test_what_is_no_file_is_refused_behind_any_number_of_links(
    kind: str, links: int, scripted: Scripted, tmp_path: Path
) -> None:
    make, saying = _KINDS[kind]
    make(tmp_path / "0")
    (tmp_path / "folder").mkdir()
    for number in range(1, links + 1):
        # Some absolute, some relative, some through another directory.
        target = [tmp_path / str(number - 1), f"./folder/../{number - 1}"][number % 2]
        (tmp_path / str(number)).symlink_to(target)
    error = _refused(scripted, tmp_path / str(links), saying)
    assert_that(error.hint == "", Equals(False))


@pytest.mark.promise("destination-is-replaced", "security-16")
@pytest.mark.parametrize("where", ["fd/1", "fd/{file}", "exe", "cwd"])
@pytest.mark.parametrize("links", [1, 2])
def test_a_link_to_what_a_process_has_opened_is_refused_even_if_that_is_a_file(
    where: str, links: int, scripted: Scripted, tmp_path: Path
) -> None:
    with open(tmp_path / "file", "wb") as file:
        (tmp_path / "1").symlink_to(f"/proc/self/{where.format(file=file.fileno())}")
        (tmp_path / "2").symlink_to("1")
        _refused(scripted, tmp_path / str(links), "leads to a descriptor of a process")
    assert_that((tmp_path / "file").read_bytes(), Equals(b""))


def test_the_descriptors_themselves_are_refused(scripted: Scripted, tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        ref, script = scripted.image(DATA)
        for folder in ("/proc/self/fd", "/dev/fd"):
            with pytest.raises(DestinationError, match="leads to a descriptor of a process"):
                scripted.broker.download(None, ref, f"{folder}/{file.fileno()}")
    assert_that(script.reads, Equals([]))


@pytest.mark.promise("destination-is-replaced")
@pytest.mark.parametrize(
    "target", ["file", "nothing", "no/such/folder", "file/x", "link", "x" * 300]
)
def test_a_link_to_a_file_or_to_nothing_is_replaced_and_not_followed(
    target: str, scripted: Scripted, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to(target)  # to itself, if it is so
    ref, _ = scripted.image(DATA)
    scripted.broker.download(None, ref, tmp_path / "link")
    assert_that((tmp_path / "link").is_symlink(), Equals(False))
    assert_that((tmp_path / "link").read_bytes(), Equals(DATA))
    assert_that((tmp_path / "file").read_bytes(), Equals(b"old"))


def test_links_that_go_round_in_circles_lead_to_nothing(scripted: Scripted, tmp_path: Path) -> None:
    for name, target in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / name).symlink_to(target)
    ref, _ = scripted.image(DATA)
    scripted.broker.download(None, ref, tmp_path / "a")
    assert_that((tmp_path / "c").read_bytes(), Equals(DATA))


@pytest.mark.parametrize("kind", _KINDS)
def test_without_overwrite_whatever_is_there_is_there_already(
    kind: str, scripted: Scripted, tmp_path: Path
) -> None:
    _KINDS[kind][0](tmp_path / "x")
    error = _refused(scripted, tmp_path / "x", "already exists", overwrite=False)
    assert_that(error.errno, Equals(errno.EEXIST))


@pytest.mark.promise("destination-is-replaced")
@pytest.mark.parametrize("source", ["elsewhere", "beside", "memory"])
def test_a_file_that_is_a_mount_point_is_refused(
    source: str, scripted: Scripted, tmp_path: Path
) -> None:
    require(mounts.missing())
    places = {"elsewhere": tmp_path / "other" / "file", "beside": tmp_path / "file"}
    path = places.get(source, Path("/dev/shm/imagebroker-mounted"))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"old")
    (tmp_path / "dest").touch()
    try:
        with mounts.mounted_on(tmp_path / "dest", path):
            _refused(scripted, tmp_path / "dest", "is a mount point")
            assert_that(path.read_bytes(), Equals(b"old"))
            with open(tmp_path / "dest", "wb") as target:
                ref, _ = scripted.image(DATA)
                scripted.broker.download(None, ref, target)
            assert_that(path.read_bytes(), Equals(DATA))
    finally:
        path.unlink()


def test_files_on_a_mounted_file_system_are_no_mount_points(
    scripted: Scripted, tmp_path: Path
) -> None:
    require(mounts.missing())
    ref, _ = scripted.image(DATA)
    with mounts.in_memory(tmp_path) as folder:
        (folder / "dest").write_bytes(b"old")
        scripted.broker.download(None, ref, folder / "dest")
        assert_that((folder / "dest").read_bytes(), Equals(DATA))


@pytest.mark.parametrize(
    ("kind", "hint"),
    [
        ("fifo", "imagebroker download REF - > DEST"),
        ("device", "imagebroker download REF - > DEST"),
        ("socket", "imagebroker download REF - | PROGRAM"),
    ],
)
@pytest.mark.parametrize("link", [False, True])
def test_the_command_says_how_the_bytes_get_there(
    kind: str, hint: str, link: bool, tmp_path: Path
) -> None:
    (tmp_path / "image").write_bytes(DATA)
    _KINDS[kind][0](tmp_path / "thing")
    (tmp_path / "link").symlink_to("thing")
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(
        [
            sys.executable, "-m", "imagebroker", "download", f"file://{tmp_path}/image",
            "link" if link else "thing",
        ],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert_that(done.returncode, Equals(9))
    assert_that(done.stderr, Contains(hint))


_KEY = "0123456789abcdef"


@pytest.mark.promise("reserved-names")
@pytest.mark.parametrize(
    "name",
    [
        f".x.{_KEY}.imagebroker-part",
        f".x.{_KEY}.imagebroker-journal",
        f".a\nb.{_KEY}-01234567.imagebroker-part",
    ],
)
def test_a_name_for_unfinished_downloads_is_refused(
    name: str, scripted: Scripted, tmp_path: Path
) -> None:
    ref, script = scripted.image(DATA)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DestinationError, match="a name for unfinished downloads") as caught:
        scripted.broker.download(None, ref, tmp_path / "folder" / name)
    assert_that(caught.value.hint, Contains("choose a name"))
    assert_that(script.reads, Equals([]))
    assert_that(os.listdir(tmp_path / "folder"), Equals([]))


@pytest.mark.promise("reserved-names")
@pytest.mark.parametrize(
    "name",
    [
        ".x.imagebroker-part",
        ".x.imagebroker-journal",
        ".imagebroker-part",
        f".x.{_KEY}.imagebroker-part.bak",
        f"x.{_KEY}.imagebroker-part",
        f".x.{_KEY.upper()}.imagebroker-part",
        f".x.{_KEY}0.imagebroker-part",
    ],
)
def test_no_other_name_is_ever_swept(name: str, scripted: Scripted, tmp_path: Path) -> None:
    ref, _ = scripted.image(DATA)
    (tmp_path / "folder").mkdir()
    dest = tmp_path / "folder" / name
    scripted.broker.download(None, ref, dest)
    os.utime(dest, (1, 1))
    scripted.broker.download(None, ref, tmp_path / "folder" / "another")
    assert_that(dest.read_bytes(), Equals(DATA))
