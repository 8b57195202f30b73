"""Who may do what with a new file: as with any new file there, or as with the one it replaces."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from tests.bounds import HANGS
from tests.conftest import Scripted
from tests.servers.fixtures import require

DATA = bytes(range(256)) * 40
_DEFAULTS = [
    "u:nobody:rw,g::r,o::r",
    "u:nobody:rwx,g::rwx,o::-",
    "u::rwx,g::r-x,o::-",
    "u:nobody:r,g:nogroup:rw,m::r,o::-",
    "u::rw,u:nobody:rwx,g::-,m::rwx,o::rwx",
]


@pytest.fixture(autouse=True)
def acl() -> None:
    missing = shutil.which("setfacl") is None
    require("setfacl is not there: run tests/install-servers" if missing else None)


@contextmanager
def _umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def _set(path: Path, *entries: str) -> None:
    subprocess.run(["setfacl", *entries, path], check=True, timeout=HANGS)


def _acl(path: Path) -> str:
    done = subprocess.run(
        ["getfacl", "-cpn", path], check=True, timeout=HANGS, capture_output=True, text=True
    )
    return done.stdout


@pytest.mark.promise("destination-is-replaced")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000, 0o777])
@pytest.mark.parametrize("default", [None, *_DEFAULTS])
def test_a_new_file_gets_what_open_gives_to_one(
    default: str | None, umask: int, scripted: Scripted, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    if default is not None:
        _set(folder, "-d", "-m", default)
    ref, _ = scripted.image(DATA)
    with _umask(umask):
        os.close(os.open(folder / "usual", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        scripted.broker.download(None, ref, folder / "ours")
    assert_that(_acl(folder / "ours"), Equals(_acl(folder / "usual")))


@pytest.mark.promise("destination-is-replaced")
@pytest.mark.parametrize("default", [None, *_DEFAULTS])
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o400])
def test_a_replaced_file_gives_its_own_mode_and_nobody_gains_by_the_folder(
    default: str | None, mode: int, scripted: Scripted, tmp_path: Path
) -> None:
    (tmp_path / "dest").write_bytes(b"old")
    os.chmod(tmp_path / "dest", mode)
    before = _acl(tmp_path / "dest")
    if default is not None:
        _set(tmp_path, "-d", "-m", default)
    ref, _ = scripted.image(DATA)
    scripted.broker.download(None, ref, tmp_path / "dest")
    assert_that(_acl(tmp_path / "dest"), Equals(before))


@pytest.mark.promise("destination-is-replaced")
@pytest.mark.parametrize("entries", ["u:nobody:rw,g::-", "g:nogroup:r,m::r,g::-,o::-"])
def test_a_replaced_file_gives_its_acl_whose_mask_is_no_right_of_the_group(
    entries: str, scripted: Scripted, tmp_path: Path
) -> None:
    (tmp_path / "dest").write_bytes(b"old")
    _set(tmp_path / "dest", "-m", entries)
    before = _acl(tmp_path / "dest")
    ref, _ = scripted.image(DATA)
    scripted.broker.download(None, ref, tmp_path / "dest")
    assert_that(_acl(tmp_path / "dest"), Equals(before))
    assert_that(before, Contains("group::---"))


def test_a_mode_that_is_asked_for_is_what_chmod_gives(scripted: Scripted, tmp_path: Path) -> None:
    _set(tmp_path, "-d", "-m", _DEFAULTS[0])
    ref, _ = scripted.image(DATA)
    scripted.broker.download(None, ref, tmp_path / "ours", file_mode=0o640)
    (tmp_path / "usual").touch()
    os.chmod(tmp_path / "usual", 0o640)
    assert_that(_acl(tmp_path / "ours"), Equals(_acl(tmp_path / "usual")))


@pytest.mark.promise("security-16")
@pytest.mark.parametrize("default", [None, *_DEFAULTS])
def test_until_it_is_complete_nobody_else_may_read_it(
    default: str | None, scripted: Scripted, tmp_path: Path
) -> None:
    if default is not None:
        _set(tmp_path, "-d", "-m", default)
    seen = []

    def look(offset: int) -> None:
        part = next(tmp_path.glob(".*.imagebroker-part"))
        seen.append(stat.S_IMODE(part.stat().st_mode) & 0o077)

    ref, script = scripted.image(DATA)
    script.before_chunk = look
    scripted.broker.download(None, ref, tmp_path / "dest")
    assert_that(set(seen), Equals({0}))
