"""A process that is killed at any step leaves a whole store."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from imagebroker_file import FileBackend
from imagebroker_file.data_files import DataFiles
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan, Is, MatchesStructure

from imagebroker.exceptions import ImageNotFound
from imagebroker.plugin import BackendHost, Options
from tests.plugins.store.store import DATA, ID, Store, names, python

UPLOAD = """
import sys
from pathlib import Path
from tests.plugins.store.store import DATA, ID, Store
store = Store(Path(sys.argv[1]))
def data():
    yield DATA
    print("uploading", flush=True)
    sys.stdin.read()
    yield DATA
if sys.argv[2] == "create":
    store.create(id=ID, data=data())
else:
    store.update(ID, data=data())
print("done", flush=True)
"""


@pytest.mark.promise("security-30")
@pytest.mark.parametrize("verb", ["create", "update"])
def test_what_a_killed_upload_left_is_removed_by_the_next_one(store: Store, verb: str) -> None:
    store.create(name="bystander")
    if verb == "update":
        store.create(id=ID, data=None, name="queued")
    process = python(UPLOAD, store.directory, verb, stdin=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert_that(process.stdout.readline(), Equals("uploading\n"))
        store.create(name="while it lives")
        assert_that(store.get(ID).status, Equals("saving"))
        assert_that(len(store.files()), Equals(3))
    finally:
        process.kill()
        process.communicate()
    assert_that(store.get(ID).status, Equals("saving"))
    store.create(name="after its death")
    if verb == "create":
        with pytest.raises(ImageNotFound):
            store.get(ID, show_deleted=True)
        assert_that(store.create(id=ID, data=DATA).size, Equals(len(DATA)))
    else:
        assert_that(store.get(ID), MatchesStructure.byEquality(status="queued", name="queued"))
        assert_that(store.update(ID, data=DATA).size, Equals(len(DATA)))
    store.is_whole()


def test_an_upload_that_lives_is_not_disturbed_by_others(store: Store) -> None:
    store.create()
    process = python(UPLOAD, store.directory, "create", stdin=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    for _ in range(3):
        store.create()
    out, _ = process.communicate("")
    assert_that(out, Equals("done\n"))
    assert_that(store.read(ID), Equals(DATA * 2))
    store.is_whole()


def test_what_does_not_belong_among_uploads_stops_none(store: Store) -> None:
    store.create()
    incoming = store.directory / "incoming"
    (incoming / "folder").mkdir()
    (incoming / "link").symlink_to("/etc/passwd")
    os.mkfifo(incoming / "fifo")
    store.create()
    assert_that((incoming / "folder").is_dir(), Is(True))
    assert_that(Path("/etc/passwd").exists(), Is(True))


def test_an_upload_that_a_sweep_took_before_it_was_locked_begins_again(store: Store) -> None:
    store.create()
    files = DataFiles(store.directory, "store_dir", fsync=False)
    with files.receive() as upload:
        assert_that(files.is_live(upload.token), Is(True))
        upload.path.unlink()
        assert_that(upload.lock(), Is(False))
        assert_that(files.is_live(upload.token), Is(False))


#: Calls of the operating system on the way of a create, an update with data, and a delete.
CALLS = ("open", "pwrite", "ftruncate", "fsync", "rename", "link", "unlink", "mkdir", "close")


def kill_at(number: int) -> None:
    """This process dies when it is about to make the n-th of these calls."""
    count = 0

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return counted

    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))


def live_until_call(number: int, store: Store) -> None:
    """A whole life of images, with everything on disk, in a process that dies on its way."""
    kill_at(number)
    durable = Options({**store.backend.host.options, "fsync": True})
    store.backend = FileBackend(BackendHost("file", durable))
    store.create(data=DATA, name="created")
    store.create(id=ID, data=None, name="queued")
    store.update(ID, data=DATA)
    store.delete(ID)
    os._exit(0)


@pytest.mark.promise("upload-whole-or-nothing")
def test_a_process_that_is_killed_at_any_step_leaves_a_whole_store(in_memory: Path) -> None:
    number, finished = 0, False
    while not finished:
        number += 1
        store = Store(in_memory / str(number))
        child = os.fork()
        if child == 0:
            try:
                live_until_call(number, store)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        assert_that(code in (0, -signal.SIGKILL), Is(True), f"it ended with {code}")
        finished = code == 0
        store.create(name="next")
        store.is_whole()
        assert_that(names(store.list()) - {"created", "queued", "next"}, Equals(set()))
        if finished:
            assert_that(names(store.list()), Equals({"created", "next"}))
        store.backend.close()
    assert_that(number, GreaterThan(30))
