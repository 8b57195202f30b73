"""The embedded store and forks: children that use it, and children that leave what is the parent's."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from imagebroker_file.database import Database
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

import imagebroker
from imagebroker.exceptions import BackendError, ImageNotFound
from tests.bounds import HANGS

_ROOT = Path(__file__).parents[2]


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_child(work: Callable[[], Any]) -> int:
    """The exit status of a child: 0 if `work` returns, 3 if it raises."""
    child = os.fork()
    if child == 0:
        status = 3
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return status_of(child)


@pytest.fixture
def broker(make_broker: Callable[..., imagebroker.Broker], tmp_path: Path) -> imagebroker.Broker:
    return make_broker(
        f"[imagebroker]\nenabled_schemes = file\n[backend:file]\nstore_dir = {tmp_path / 'store'}\n"
    )


@pytest.mark.promise("forks")
def test_no_child_hangs_that_is_forked_while_others_are_inside_sqlite(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.forks.hammer", str(tmp_path), "200"],
        check=False, timeout=HANGS, capture_output=True, text=True, cwd=_ROOT,
    )  # fmt: skip
    assert_that(done.returncode, Equals(0), done.stderr[-3000:])
    wanted = {"hung": 0, "failed": 0, "failures": [], "left": ["first"]}
    assert_that(json.loads(done.stdout), Equals(wanted), done.stderr[-3000:])


@pytest.fixture
def database(broker: imagebroker.Broker, tmp_path: Path) -> Iterator[Database]:
    """That of the store, which has one image."""
    broker.create(None, {"name": "first", "disk_format": "raw"}, b"first", backend="file")
    database = Database(
        tmp_path / "store" / "imagebroker-store.sqlite3",
        timeout=5,
        durable=False,
        check=lambda: None,
    )
    yield database
    database.close()


def names(database: Database) -> list[str]:
    with database.reading() as db:
        return [row["name"] for row in db.execute("SELECT name FROM images ORDER BY name")]


@pytest.mark.promise("forks")
def test_a_child_that_leaves_a_transaction_does_not_roll_the_parents_back(
    database: Database,
) -> None:
    def rename() -> None:
        with database.writing() as db:
            db.execute("UPDATE images SET name = 'renamed'")
            child = os.fork()
            if child == 0:
                raise KeyboardInterrupt
            assert_that(status_of(child), Equals(4))

    parent = os.getpid()
    try:
        rename()
    except KeyboardInterrupt:
        if os.getpid() != parent:
            os._exit(4)
        raise
    assert_that(names(database), Equals(["renamed"]))


def test_a_child_of_a_transaction_is_told_that_it_cannot_use_the_store(database: Database) -> None:
    """SQLite would take the parent's locks for its own."""

    def refused() -> None:
        with pytest.raises(BackendError, match="forked during a transaction"):
            names(database)

    with database.writing() as db:
        db.execute("UPDATE images SET name = 'renamed'")
        assert_that(in_child(refused), Equals(0))
    assert_that(names(database), Equals(["renamed"]))
    assert_that(in_child(lambda: names(database)), Equals(0))


def test_a_child_of_an_upload_leaves_it_to_its_parent(broker: imagebroker.Broker) -> None:
    statuses: list[int] = []

    def data() -> Iterator[bytes]:
        yield b"one "
        child = os.fork()
        if child == 0:
            raise KeyboardInterrupt
        statuses.append(status_of(child))
        yield b"two"

    parent = os.getpid()
    try:
        image = broker.create(None, {"name": "x", "disk_format": "raw"}, data(), backend="file")
    except KeyboardInterrupt:
        if os.getpid() != parent:
            os._exit(4)
        raise
    assert_that(statuses, Equals([4]))
    with broker.open(None, image.ref) as reader:
        assert_that(reader.read(), Equals(b"one two"))


@pytest.mark.promise("C35")
def test_a_child_that_lives_on_holds_no_lock_of_an_upload(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    """Else what its parent left, when it was killed, would count as being in use."""
    incoming = tmp_path / "store" / "incoming"
    found: list[int] = []

    def data() -> Iterator[bytes]:
        yield b"one"
        found.append(in_child(unlocked))
        yield b"two"

    def unlocked() -> None:
        """What the child has open of the upload is not the upload."""
        held = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")
                if os.path.lexists(f"/proc/self/fd/{name}")]  # fmt: skip
        assert not [each for each in held if each.startswith(str(incoming))], held
        [upload] = incoming.iterdir()
        with upload.open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the parent's is still there

    broker.create(None, {"name": "x", "disk_format": "raw"}, data(), backend="file")
    assert_that(found, Equals([0]))


def test_a_child_that_is_forked_while_a_listing_is_read_uses_the_store(
    broker: imagebroker.Broker,
) -> None:
    for number in range(3):
        broker.create(None, {"name": f"{number}", "disk_format": "raw"}, b"x", backend="file")
    images = broker.get_all(None, backend="file", page_size=1)
    first = next(images)
    assert_that(in_child(lambda: broker.delete(None, first.ref)), Equals(0))
    assert_that([image.name for image in images], Equals(["1", "0"]))
    with pytest.raises(ImageNotFound):
        broker.get(None, first.ref, show_deleted=False)
    assert_that([each.name for each in broker.get_all(None, backend="file")], Contains("0"))
