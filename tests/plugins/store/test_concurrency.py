"""Processes and threads that use one store at once lose nothing."""

from __future__ import annotations

import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from imagebroker_file.database import MARKER
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan, HasLength, Is, LessThan

from imagebroker.exceptions import BackendError, ImageNotFound
from imagebroker.plugin import Image, ImageQuery
from tests.bounds import HANGS, in_time
from tests.plugins.store.store import DATA, ID, Store, open_files, python

CREATE = """
import sys
from pathlib import Path
from imagebroker.plugin import Image, ImageData
from tests.plugins.store.store import Store
store, worker, count = Store(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
from concurrent.futures import ThreadPoolExecutor
from imagebroker.exceptions import Conflict
def create(n):
    try:
        name = f"{worker}-{n}"
        store.create(data=iter([name.encode()] * 50), name=name, properties={"n": n})
        store.create(id=f"00000000-0000-0000-0000-{n:012}", data=name.encode())
        return 1
    except Conflict:
        return 0
with ThreadPoolExecutor(3) as pool:
    print(sum(pool.map(create, range(count))))
store.backend.close()
"""


def test_processes_and_threads_that_create_at_once_lose_nothing(store: Store) -> None:
    workers = [python(CREATE, store.directory, name, 25) for name in ("a", "b")]
    won = [int(worker.communicate(timeout=HANGS)[0]) for worker in workers]
    assert_that(sum(won), Equals(25))  # each chosen id went to one of them
    images = store.list()
    assert_that(images, HasLength(75))
    named = {image.name for image in images if image.name}
    assert_that(named, Equals({f"{worker}-{n}" for worker in "ab" for n in range(25)}))
    store.is_whole()


def test_threads_that_update_one_image_lose_nothing(store: Store, image: Image) -> None:
    def update(n: int) -> None:
        store.update(ID, properties={f"p{n}": n})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(update, range(60)))
    assert_that(
        store.get(ID).properties, Equals({"a": "1", "b": "2"} | {f"p{n}": n for n in range(60)})
    )


def test_no_descriptor_is_left_when_all_threads_are_done(store: Store) -> None:
    before = open_files()

    def work(n: int) -> None:
        created = store.create(data=DATA)
        store.read(str(created.id))
        store.list(limit=3)
        with pytest.raises(ImageNotFound):
            store.get(ID)
        if n % 2:
            store.delete(str(created.id))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    store.backend.close()
    assert_that(open_files(), Equals(before))


def test_a_closed_store_opens_nothing_again(store: Store, image: Image) -> None:
    before = open_files()
    images = store.backend.get_all(None, ImageQuery(filters={"hidden": True}))
    store.backend.close()
    store.backend.close()
    for call in (lambda: next(images), lambda: store.get(ID)):
        with pytest.raises(BackendError, match="closed"):
            call()
    assert_that(len(open_files()), LessThan(len(before) + 1))


def test_a_forked_process_uses_connections_of_its_own(store: Store, image: Image) -> None:
    store.get(ID)
    assert_that(database_files(store), GreaterThan(0))
    child = os.fork()
    if child == 0:
        try:
            inherited = database_files(store)
            store.update(ID, name="from the child")
            os._exit(0 if inherited == 0 else 1)
        except BaseException:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert_that(os.waitstatus_to_exitcode(status), Equals(0))
    assert_that(store.get(ID).name, Equals("from the child"))
    assert_that(store.update(ID, name="from the parent").name, Equals("from the parent"))
    store.backend.close()
    Store(store.directory).is_whole()


def database_files(store: Store) -> int:
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            pass  # that of the listing itself
    return sum(link.startswith(str(store.directory)) for link in links)


def test_a_store_that_is_written_to_without_end_is_a_retryable_error(tmp_path: Path) -> None:
    from imagebroker.plugin import Limits

    store = Store(tmp_path / "store", limits=Limits(stall_timeout=0.2))
    store.create(id=ID)
    with closing(sqlite3.connect(store.directory / MARKER, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        begin = time.monotonic()
        with pytest.raises(BackendError, match="locked") as caught:
            store.update(ID, name="x")
        assert_that(time.monotonic() - begin, in_time(1))
        assert_that(caught.value.retryable, Is(True))
        assert_that(store.get(ID).name, Is(None))  # readers do not wait for writers
    store.backend.close()
