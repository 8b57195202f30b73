"""`file:` refs: which files they reach, and that the bytes are those of one file."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagebroker_file import FileBackend
from imagebroker_file.database import MARKER
from testtools.assertions import assert_that
from testtools.matchers import (
    Contains,
    EndsWith,
    Equals,
    Is,
    LessThan,
    MatchesStructure,
    Not,
    StartsWith,
)

import imagebroker
from imagebroker.exceptions import (
    ConfigError,
    ImageBrokerError,
    ImageChanged,
    ImageNotFound,
    InvalidImageRef,
    NotAuthorized,
    PolicyViolation,
    TooLarge,
    TransferError,
    UnsupportedOperation,
)
from imagebroker.model.reference import check_form, parse
from imagebroker.plugin import BackendHost, Image, ImageData, ImageSource, Options

DATA = bytes(range(256)) * 10_000
MakeBackend = Callable[..., FileBackend]


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    folder = tmp_path / "A"
    folder.mkdir()
    (folder / "image.raw").write_bytes(DATA)
    return folder


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file outside of what is allowed."""
    path = tmp_path / "secret"
    path.write_bytes(b"secret")
    return path


@pytest.fixture
def make_backend(tmp_path: Path) -> Iterator[MakeBackend]:
    made: list[FileBackend] = []

    def make(*allowed_paths: object, personal: bool = False, **options: Any) -> FileBackend:
        values = {"store_dir": str(tmp_path / "store"), "fsync": False}
        values |= {"allowed_paths": [str(path) for path in allowed_paths], **options}
        made.append(FileBackend(BackendHost("file", Options(values), personal=personal)))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def backend(make_backend: MakeBackend, allowed: Path) -> FileBackend:
    return make_backend(allowed)


def uri(path: os.PathLike[str] | str | bytes) -> str:
    return "file://" + quote(os.fsencode(path))


def open_ref(backend: FileBackend, text: str) -> ImageSource:
    """As the core does it: the ref is parsed and held to the backend's form first."""
    ref = parse(text)
    check_form(ref, backend.ref_form)
    return backend.open(None, ref)


def content(source: ImageSource) -> bytes:
    try:
        return b"".join(source.read())
    finally:
        source.close()


def refused(backend: FileBackend, text: str, *kinds: type[ImageBrokerError]) -> ImageBrokerError:
    """The error, which came at once and left no descriptor behind."""
    before, begin = open_files(), time.monotonic()
    with pytest.raises(kinds) as caught:
        open_ref(backend, text).close()
    assert_that(time.monotonic() - begin, LessThan(0.1))
    assert_that(open_files(), Equals(before))
    return caught.value


def open_files() -> list[str]:
    gc.collect()  # what an earlier test left to the garbage collector must not go in between
    return sorted(os.listdir("/proc/self/fd"))


# What is reached


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


def link_to_a_file(folder: Path, secret: Path) -> Path:
    (folder / "link").symlink_to(secret)
    return folder / "link"


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


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/random", "/dev/tty", "/dev/null"])
def test_a_device_is_refused(make_backend: MakeBackend, device: str) -> None:
    refused(make_backend("/dev"), uri(device), PolicyViolation)
    refused(make_backend(personal=True), uri(device), PolicyViolation)


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


# A store is not to be read by path


def test_no_ref_reaches_below_a_store(make_backend: MakeBackend, tmp_path: Path) -> None:
    backend = make_backend(tmp_path)
    image = backend.create(None, Image(ref=""), ImageData(b"bits"))
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file():
            error = refused(backend, uri(path), PolicyViolation)
            assert_that(str(error), Contains("inside an image store"))
    assert_that(content(open_ref(backend, f"file:{image.id}")), Equals(b"bits"))


def test_no_ref_reaches_below_the_store_of_another_instance(
    make_backend: MakeBackend, tmp_path: Path
) -> None:
    other = make_backend(store_dir=str(tmp_path / "other"))
    image = other.create(None, Image(ref=""), ImageData(b"bits"))
    bits = uri(tmp_path / "other" / "images" / str(image.id))
    refused(make_backend(tmp_path), bits, PolicyViolation)
    refused(make_backend(personal=True), bits, PolicyViolation)
    (tmp_path / "images").symlink_to(tmp_path / "other" / "images")
    by_link = uri(tmp_path / "images" / str(image.id))
    refused(make_backend(tmp_path / "images"), by_link, PolicyViolation)
    refused(make_backend(personal=True), by_link, PolicyViolation)


def test_a_folder_deep_in_a_store_is_below_it(backend: FileBackend, allowed: Path) -> None:
    (allowed / MARKER).touch()
    (allowed / "a" / "b").mkdir(parents=True)
    (allowed / "a" / "b" / "f").touch()
    refused(backend, uri(allowed / "a" / "b" / "f"), PolicyViolation)


# A person may read what they can read


def test_a_person_reads_any_path_and_through_links(
    make_backend: MakeBackend, secret: Path, tmp_path: Path
) -> None:
    backend = make_backend(personal=True)
    (tmp_path / "folder").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to(secret)
    for path in (secret, tmp_path / "link", tmp_path / "folder" / "secret"):
        assert_that(content(open_ref(backend, uri(path))), Equals(b"secret"))


def test_a_person_is_told_what_is_missing(make_backend: MakeBackend, tmp_path: Path) -> None:
    backend = make_backend(personal=True)
    refused(backend, uri(tmp_path / "absent"), ImageNotFound)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(backend, uri(tmp_path / "loop"), PolicyViolation)


# Refs by path are read-only


def test_update_and_delete_of_a_path_are_unsupported(backend: FileBackend, allowed: Path) -> None:
    ref = parse(uri(allowed / "image.raw"))
    with pytest.raises(UnsupportedOperation, match="only read") as caught:
        backend.update(None, ref, {"name": "x"}, None, False)
    assert_that(bool(caught.value.hint), Is(True))
    with pytest.raises(UnsupportedOperation, match="only read"):
        backend.delete(None, ref)
    assert_that((allowed / "image.raw").read_bytes(), Equals(DATA))


# What a source promises


@given(start=st.integers(0, len(DATA)), length=st.integers(0, len(DATA)))
def test_any_range_is_read_exactly(
    start: int, length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "ranges"
    folder.mkdir(exist_ok=True)
    if not (folder / "f").exists():
        (folder / "f").write_bytes(DATA)
    values = {"store_dir": "/nonexistent", "allowed_paths": [str(folder)], "fsync": False}
    source = open_ref(FileBackend(BackendHost("file", Options(values))), uri(folder / "f"))
    stop = min(start + length, len(DATA))
    assert_that(b"".join(source.read(start, stop)), Equals(DATA[start:stop]))
    source.close()


def test_local_path_is_the_checked_file_itself(
    backend: FileBackend, allowed: Path, secret: Path
) -> None:
    source = open_ref(backend, uri(allowed / "image.raw"))
    (allowed / "image.raw").unlink()
    (allowed / "image.raw").symlink_to(secret)
    assert source.local_path is not None
    assert_that(source.local_path.read_bytes(), Equals(DATA))
    source.close()


def test_four_threads_read_one_source_at_once(backend: FileBackend, allowed: Path) -> None:
    source = open_ref(backend, uri(allowed / "image.raw"))
    found: dict[int, bytes] = {}
    step = len(DATA) // 4

    def read(start: int) -> None:
        found[start] = b"".join(source.read(start, start + step))

    threads = [threading.Thread(target=read, args=(n * step,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    source.close()
    assert_that(b"".join(found[n * step] for n in range(4)), Equals(DATA))


@pytest.mark.parametrize(
    "part_with", [lambda p: p.unlink(), lambda p: p.rename(p.with_name("elsewhere")),
                  lambda p: os.link(p, p.with_name("second name")), lambda p: p.chmod(0o400)]
)  # fmt: skip
def test_a_file_that_gets_another_name_or_none_is_read_to_its_end(
    backend: FileBackend, allowed: Path, part_with: Callable[[Path], object]
) -> None:
    source = open_ref(backend, uri(allowed / "image.raw"))
    chunks = source.read()
    first = next(chunks)
    part_with(allowed / "image.raw")
    assert_that(bytes(first) + b"".join(chunks), Equals(DATA))
    source.close()


def test_a_file_that_is_replaced_while_read_keeps_its_old_content(
    backend: FileBackend, allowed: Path
) -> None:
    source = open_ref(backend, uri(allowed / "image.raw"))
    chunks = source.read()
    first = next(chunks)
    (allowed / "new").write_bytes(b"new" * len(DATA))
    os.replace(allowed / "new", allowed / "image.raw")
    assert_that(bytes(first) + b"".join(chunks), Equals(DATA))
    source.close()


def truncate(path: Path) -> None:
    os.truncate(path, len(DATA) // 2)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")


def overwrite_and_restore_the_time(path: Path) -> None:
    status = path.stat()
    overwrite(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("write", [truncate, append, overwrite, overwrite_and_restore_the_time])
def test_a_file_that_is_written_to_while_read_is_changed(
    backend: FileBackend, allowed: Path, write: Callable[[Path], None]
) -> None:
    os.utime(allowed / "image.raw", (1_700_000_000, 1_700_000_000))
    source = open_ref(backend, uri(allowed / "image.raw"))
    chunks = source.read()
    next(chunks)
    write(allowed / "image.raw")
    with pytest.raises(ImageChanged) as caught:
        list(chunks)
    assert_that(bool(caught.value.hint), Is(True))
    with pytest.raises(ImageChanged):
        list(source.read(len(DATA)))
    source.close()


def test_a_closed_source_reads_no_other_file(backend: FileBackend, allowed: Path) -> None:
    source = open_ref(backend, uri(allowed / "image.raw"))
    chunks = source.read()
    next(chunks)
    source.close()
    with (allowed / "image.raw").open("rb"):  # gets the number that was closed
        with pytest.raises(TransferError, match="closed") as caught:
            next(chunks)
        assert_that(caught.value.retryable, Is(False))
        with pytest.raises(TransferError, match="closed"):
            list(source.read())
        source.close()


def test_closing_from_many_threads_while_others_read_never_mixes_files(
    backend: FileBackend, allowed: Path
) -> None:
    (allowed / "zeros").write_bytes(bytes(1 << 20))
    (allowed / "ones").write_bytes(b"\1" * (1 << 20))
    wrong: list[object] = []

    def read(name: str, byte: int) -> None:
        for _ in range(150):
            source = open_ref(backend, uri(allowed / name))
            closer = threading.Thread(target=source.close)
            try:
                closer.start()
                wrong.extend(chunk for chunk in source.read() if set(chunk) != {byte})
            except TransferError:
                pass
            closer.join()
            source.close()

    before = open_files()
    threads = [threading.Thread(target=read, args=a) for a in (("zeros", 0), ("ones", 1)) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_that(wrong, Equals([]))
    assert_that(open_files(), Equals(before))


def test_a_source_that_is_forgotten_closes_its_file(backend: FileBackend, allowed: Path) -> None:
    before = open_files()
    open_ref(backend, uri(allowed / "image.raw"))
    assert_that(open_files(), Equals(before))


READ_ONE_FILE = """
import sys
from imagebroker.plugin import BackendHost, Options
from imagebroker.exceptions import ImageBrokerError
from imagebroker.model.reference import parse
from imagebroker_file import FileBackend
folder, ref = sys.argv[1:]
values = {"store_dir": folder + "/store", "allowed_paths": [folder], "fsync": False}
source = FileBackend(BackendHost("file", Options(values))).open(None, parse(ref))
try:
    for chunk in source.read():
        print(len(chunk))
except ImageBrokerError as error:
    print(type(error).__name__, error.retryable, error)
"""


def test_a_device_error_in_the_middle_is_a_transfer_error(allowed: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed: apt-get install strace")
    fault = [strace, "-f", "-o", "/dev/null", "-P", str(allowed / "image.raw"),
             "-e", "inject=pread64:error=EIO:when=4"]  # fmt: skip
    done = subprocess.run(
        [*fault, sys.executable, "-c", READ_ONE_FILE, str(allowed), uri(allowed / "image.raw")],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert_that(lines[:-1], Equals(["1048576", "1048576"]))
    assert_that(lines[-1], StartsWith("TransferError True file://"))
    assert_that(lines[-1], EndsWith("cannot be read at byte 2097152: Input/output error"))


# Options


@pytest.mark.parametrize(
    "options", [{"store_dir": "relative"}, {"store_dir": "~/store"}, {"allowed_paths": ["images"]},
                {"allowed_paths": ["/a/../etc"]}, {"allowed_paths": [""]}]
)  # fmt: skip
def test_a_directory_that_is_not_absolute_is_a_config_error(
    make_backend: MakeBackend, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"\[backend:file\] (store_dir|allowed_paths)") as caught:
        make_backend(**options)
    assert_that(bool(caught.value.hint), Is(True))


@pytest.mark.parametrize(
    ("personal", "environment", "expected"),
    [
        (False, {"XDG_DATA_HOME": "/data"}, "/var/lib/imagebroker"),
        (True, {"XDG_DATA_HOME": "/data"}, "/data/imagebroker"),
        (True, {"XDG_DATA_HOME": "relative"}, "/home/me/.local/share/imagebroker"),
        (True, {}, "/home/me/.local/share/imagebroker"),
    ],
)
def test_the_store_is_where_a_service_or_a_person_expects_it(
    make_backend: MakeBackend,
    monkeypatch: pytest.MonkeyPatch,
    personal: bool,
    environment: dict[str, str],
    expected: str,
) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    for name, value in {"HOME": "/home/me", **environment}.items():
        monkeypatch.setenv(name, value)
    backend = make_backend(personal=personal, store_dir=None)
    with pytest.raises(ImageNotFound) as caught:
        backend.get(None, parse("file:3f2504e0-4f89-11d3-9a0c-0305e82c3301"))
    assert_that(caught.value.hint, Contains(f"no image store in {expected} yet"))


# Through the broker


@pytest.fixture
def broker(make_broker: Callable[[str], imagebroker.Broker], tmp_path: Path, allowed: Path) -> Any:
    return make_broker(
        f"""
        [imagebroker]
        enabled_schemes = file
        retry_backoff = 0
        max_size = {1 << 41}
        [backend:file]
        allowed_paths = {allowed}
        store_dir = {tmp_path}/store
        """
    )


def test_a_download_stores_the_file(broker: Any, allowed: Path, tmp_path: Path) -> None:
    download = broker.download(None, uri(allowed / "image.raw"), tmp_path / "dest")
    assert_that(download, MatchesStructure.byEquality(size=len(DATA), attempts=1))
    assert_that((tmp_path / "dest").read_bytes(), Equals(DATA))


def test_a_download_is_a_file_of_its_own(broker: Any, allowed: Path, tmp_path: Path) -> None:
    os.link(allowed / "image.raw", tmp_path / "elsewhere")
    broker.download(None, uri(allowed / "image.raw"), tmp_path / "dest")
    (tmp_path / "dest").write_bytes(b"written to")
    assert_that((allowed / "image.raw").read_bytes(), Equals(DATA))
    assert_that((tmp_path / "dest").stat().st_nlink, Equals(1))


@pytest.fixture
def sparse(allowed: Path) -> Path:
    """1 TiB that takes next to nothing on the disk."""
    path = allowed / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.write(b"start")
        file.seek((1 << 40) - 3)
        file.write(b"end")
    return path


def test_a_sparse_file_over_the_limit_is_refused_before_anything_is_written(
    broker: Any, sparse: Path, tmp_path: Path
) -> None:
    with pytest.raises(TooLarge):
        broker.download(None, uri(sparse), tmp_path / "dest", max_size=10 << 30)
    assert_that(sorted(os.listdir(tmp_path)), Not(Contains("dest")))


def test_a_sparse_file_keeps_its_holes(broker: Any, sparse: Path, tmp_path: Path) -> None:
    broker.download(None, uri(sparse), tmp_path / "dest")
    status = (tmp_path / "dest").stat()
    assert_that(status.st_size, Equals(1 << 40))
    assert_that(status.st_blocks * 512, LessThan(1 << 20))
    with (tmp_path / "dest").open("rb") as file:
        assert_that(file.read(6), Equals(b"start\0"))
        file.seek((1 << 40) - 4)
        assert_that(file.read(), Equals(b"\0end"))


@pytest.mark.parametrize(
    ("plant", "kind"),
    [(link_to_a_file, PolicyViolation), (lambda f, s: f / "absent", ImageNotFound)],
)
def test_a_refused_download_leaves_the_destination_alone(
    broker: Any, allowed: Path, secret: Path, tmp_path: Path, plant: Any, kind: Any
) -> None:
    (tmp_path / "dest").write_bytes(b"old")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(kind):
        broker.download(None, uri(plant(allowed, secret)), tmp_path / "dest")
    assert_that((tmp_path / "dest").read_bytes(), Equals(b"old"))
    assert_that(sorted(os.listdir(tmp_path)), Equals(before))


def test_a_pin_is_checked_against_a_file(broker: Any, allowed: Path, tmp_path: Path) -> None:
    with pytest.raises(imagebroker.VerificationError):
        broker.download(None, f"{uri(allowed / 'image.raw')}#sha256={'0' * 64}", tmp_path / "dest")
    assert_that((tmp_path / "dest").exists(), Is(False))


def test_the_broker_names_nothing_to_update_below_a_path(broker: Any, allowed: Path) -> None:
    for call in (broker.delete, lambda c, r: broker.update(c, r, {"name": "x"})):
        with pytest.raises(UnsupportedOperation):
            call(None, uri(allowed / "image.raw"))
