"""What a source of a file promises: the bytes of that file, while it is one file."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from imagebroker_file import FileBackend
from testtools.assertions import assert_that
from testtools.matchers import EndsWith, Equals, Is, StartsWith

from imagebroker.exceptions import ImageChanged, TransferError
from imagebroker.plugin import BackendHost, Options
from tests.bounds import HANGS
from tests.plugins.file.paths import DATA, open_files, open_ref, uri


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
        capture_output=True, text=True, timeout=HANGS, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert_that(lines[:-1], Equals(["1048576", "1048576"]))
    assert_that(lines[-1], StartsWith("TransferError True file://"))
    assert_that(lines[-1], EndsWith("cannot be read at byte 2097152: Input/output error"))
