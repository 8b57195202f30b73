"""`file:` refs: which files they reach."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagebroker_file import FileBackend
from testtools.assertions import assert_that
from testtools.matchers import Contains, EndsWith, Equals, Is, MatchesStructure

from imagebroker.exceptions import ImageNotFound, InvalidImageRef, NotAuthorized, PolicyViolation
from imagebroker.model.reference import parse
from imagebroker.plugin import BackendHost, Options
from tests.plugins.file.paths import (
    DATA,
    MakeBackend,
    content,
    link_to_a_file,
    open_ref,
    refused,
    uri,
)


def test_a_file_below_an_allowed_directory_is_read(backend: FileBackend, allowed: Path) -> None:
    source = open_ref(backend, uri(allowed / "image.raw"))
    assert_that(
        source.image,
        MatchesStructure.byEquality(
            ref=uri(allowed / "image.raw"), name="image.raw", size=len(DATA), version=None, id=None
        ),
    )
    assert_that(source, MatchesStructure.byEquality(seekable=True, parallel_reads=4))
    assert_that(content(source), Equals(DATA))


def test_get_says_size_and_time_of_a_file(backend: FileBackend, allowed: Path) -> None:
    os.utime(allowed / "image.raw", (1_700_000_000, 1_700_000_000))
    image = backend.get(None, parse(uri(allowed / "image.raw")))
    assert_that(image.size, Equals(len(DATA)))
    assert_that(image.updated_at and image.updated_at.timestamp(), Equals(1_700_000_000.0))


def test_a_file_in_a_directory_below_is_read(backend: FileBackend, allowed: Path) -> None:
    (allowed / "x" / "y").mkdir(parents=True)
    (allowed / "x" / "y" / "f").write_bytes(b"deep")
    assert_that(content(open_ref(backend, uri(allowed / "x" / "y" / "f"))), Equals(b"deep"))


def test_an_empty_file_is_read(backend: FileBackend, allowed: Path) -> None:
    (allowed / "empty").touch()
    source = open_ref(backend, uri(allowed / "empty"))
    assert_that((source.image.size, content(source)), Equals((0, b"")))


@pytest.mark.promise("security-7")
@pytest.mark.parametrize(
    "path", ["../secret", "x/../../secret", "%2e%2e/secret", "%2E%2e%2Fsecret", "/secret", "x//y",
             "./image.raw", ".", "image.raw/", ""]
)  # fmt: skip
def test_a_path_that_walks_around_is_refused(
    backend: FileBackend, allowed: Path, secret: Path, path: str
) -> None:
    refused(backend, f"{uri(allowed)}/{path}", PolicyViolation)


@pytest.mark.parametrize("text", ["file:///", "file://localhost{}", "file:/{}", "file:{}"])
def test_what_names_no_file_is_no_ref(backend: FileBackend, allowed: Path, text: str) -> None:
    refused(backend, text.format(allowed), InvalidImageRef)


@pytest.mark.promise("security-7")
def test_an_allowed_directory_is_no_prefix_of_a_longer_name(
    backend: FileBackend, allowed: Path
) -> None:
    (allowed.parent / "Aevil").mkdir()
    (allowed.parent / "Aevil" / "x").write_bytes(b"x")
    refused(backend, uri(allowed.parent / "Aevil" / "x"), PolicyViolation)


def test_whether_a_file_outside_exists_is_not_told(
    backend: FileBackend, secret: Path, tmp_path: Path
) -> None:
    there = refused(backend, uri(secret), PolicyViolation)
    absent = refused(backend, uri(tmp_path / "absent"), PolicyViolation)
    assert_that(str(absent).replace("absent", "secret"), Equals(str(there)))
    assert_that(there.hint, Equals(absent.hint))


@pytest.mark.promise("security-7")
def test_without_allowed_paths_no_file_is_read(make_backend: MakeBackend, secret: Path) -> None:
    error = refused(make_backend(), uri(secret), PolicyViolation)
    assert_that(error.hint, Contains("allowed_paths"))


def test_the_root_directory_can_be_allowed(make_backend: MakeBackend, secret: Path) -> None:
    assert_that(content(open_ref(make_backend("/"), uri(secret))), Equals(b"secret"))


def test_a_missing_file_in_an_allowed_directory_is_not_found(
    backend: FileBackend, allowed: Path
) -> None:
    error = refused(backend, uri(allowed / "absent"), ImageNotFound)
    assert_that(str(error), Contains("absent"))
    assert_that(error.hint, Contains("check the path"))


def test_a_path_below_a_file_is_not_found(backend: FileBackend, allowed: Path) -> None:
    refused(backend, uri(allowed / "image.raw" / "x"), ImageNotFound)


def link_to_a_directory(folder: Path, secret: Path) -> Path:
    (folder / "link").symlink_to(secret.parent)
    return folder / "link" / "secret"


def chain_of_links(folder: Path, secret: Path) -> Path:
    (folder / "link").symlink_to(folder / "next")
    (folder / "next").symlink_to(secret)
    return folder / "link"


def loop_of_links(folder: Path, secret: Path) -> Path:
    (folder / "link").symlink_to(folder / "next")
    (folder / "next").symlink_to(folder / "link")
    return folder / "link"


def link_inside(folder: Path, secret: Path) -> Path:
    (folder / "link").symlink_to(folder / "image.raw")
    return folder / "link"


@pytest.mark.promise("security-7")
@pytest.mark.parametrize(
    "plant", [link_to_a_file, link_to_a_directory, chain_of_links, loop_of_links, link_inside]
)
def test_no_link_below_an_allowed_directory_is_followed(
    backend: FileBackend, allowed: Path, secret: Path, plant: Callable[[Path, Path], Path]
) -> None:
    refused(backend, uri(plant(allowed, secret)), PolicyViolation)


def test_an_allowed_directory_may_itself_be_a_link(
    make_backend: MakeBackend, allowed: Path, tmp_path: Path
) -> None:
    (tmp_path / "operator").symlink_to(allowed)
    source = open_ref(make_backend(tmp_path / "operator"), uri(tmp_path / "operator/image.raw"))
    assert_that(content(source), Equals(DATA))


def test_an_allowed_directory_is_resolved_once(
    make_backend: MakeBackend, allowed: Path, secret: Path, tmp_path: Path
) -> None:
    link = tmp_path / "operator"
    link.symlink_to(allowed)
    backend = make_backend(link)
    open_ref(backend, uri(link / "image.raw")).close()
    link.unlink()
    link.symlink_to(tmp_path)
    refused(backend, uri(link / "secret"), ImageNotFound)
    assert_that(content(open_ref(backend, uri(link / "image.raw"))), Equals(DATA))


def test_an_allowed_directory_may_be_made_later(make_backend: MakeBackend, tmp_path: Path) -> None:
    backend = make_backend(tmp_path / "later")
    refused(backend, uri(tmp_path / "later" / "f"), ImageNotFound)
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "f").write_bytes(b"now")
    assert_that(content(open_ref(backend, uri(tmp_path / "later" / "f"))), Equals(b"now"))


def test_the_most_exact_allowed_directory_counts(
    make_backend: MakeBackend, allowed: Path, secret: Path
) -> None:
    (allowed / "sub").symlink_to(secret.parent)
    backend = make_backend(allowed, allowed / "sub")
    assert_that(content(open_ref(backend, uri(allowed / "sub" / "secret"))), Equals(b"secret"))


@pytest.mark.promise("security-8")
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/random", "/dev/tty", "/dev/null"])
def test_a_device_is_refused(make_backend: MakeBackend, device: str) -> None:
    refused(make_backend("/dev"), uri(device), PolicyViolation)
    refused(make_backend(personal=True), uri(device), PolicyViolation)


@pytest.mark.promise("security-8")
def test_a_fifo_without_a_writer_is_refused_at_once(backend: FileBackend, allowed: Path) -> None:
    os.mkfifo(allowed / "fifo")
    refused(backend, uri(allowed / "fifo"), PolicyViolation)


def test_a_socket_is_refused(backend: FileBackend, allowed: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(allowed / "socket"))
        refused(backend, uri(allowed / "socket"), PolicyViolation)


def test_a_directory_is_refused(backend: FileBackend, allowed: Path) -> None:
    (allowed / "folder").mkdir()
    refused(backend, uri(allowed / "folder"), PolicyViolation)
    refused(backend, uri(allowed), PolicyViolation)


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A directory that everybody may enter, while this process has no privileges."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user: run the tests as root")
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        os.mkdir(f"{name}/closed", 0o700)
        for path in (f"{name}/unreadable", f"{name}/closed/file"):
            Path(path).write_bytes(b"x")
        os.chmod(f"{name}/unreadable", 0)
        os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("path", ["unreadable", "closed/file", "closed/absent"])
def test_what_this_user_may_not_read_is_not_authorized(
    make_backend: MakeBackend, as_nobody: Path, path: str
) -> None:
    error = refused(make_backend(as_nobody), uri(as_nobody / path), NotAuthorized)
    assert_that(str(error), EndsWith(f"{path!r}: permission denied"))


@pytest.mark.parametrize(
    "name", [b"new\nline", b"quote'\"`$(x)", b"\xff\xfe non utf-8", b"a%2fb", b"-rf", b"#x=1?y",
             "ünï".encode(), b" ", b"\x1b[31m"]
)  # fmt: skip
def test_odd_names_are_read_exactly(backend: FileBackend, allowed: Path, name: bytes) -> None:
    path = os.fsencode(allowed) + b"/" + name
    with open(path, "wb") as file:
        file.write(name)
    source = open_ref(backend, uri(path))
    assert_that(source.image.name, Equals(name.decode("utf-8", "backslashreplace")))
    assert_that(content(source), Equals(name))


@given(name=st.binary(min_size=1, max_size=40))
def test_whatever_a_ref_says_it_reads_that_file_or_none(name: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        values = {"store_dir": f"{folder}/s", "allowed_paths": [f"{folder}/A"], "fsync": False}
        backend = FileBackend(BackendHost("file", Options(values)))
        os.mkdir(f"{folder}/A")
        Path(f"{folder}/secret").write_bytes(b"secret")
        plain = not {b"", b".", b".."} & set(name.split(b"/")) and b"\0" not in name
        if plain and b"/" not in name:
            with open(os.fsencode(folder) + b"/A/" + name, "wb") as file:
                file.write(name)
        try:
            found = content(open_ref(backend, f"file://{folder}/A/{quote(name, safe='')}"))
        except (InvalidImageRef, PolicyViolation, ImageNotFound) as error:
            assert_that(plain and b"/" not in name, Is(False), str(error))
        else:
            assert_that(found, Equals(name))
