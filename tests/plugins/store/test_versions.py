"""The version of the database: older ones are read, newer ones are left alone."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime

import pytest
from imagebroker_file import schema
from imagebroker_file.database import MARKER
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, MatchesStructure

from imagebroker.exceptions import ConfigError
from imagebroker.plugin import Image
from tests.plugins.store.store import ALICE, BOB, ID, Store

VERSION_1 = """
INSERT INTO images VALUES (1, '3f2504e0-4f89-11d3-9a0c-0305e82c3301', 'old', 'active', 'shared',
    'alice', 0, 1, 4, NULL, 'raw', 'bare', 1, 2,
    '{"sha256": "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"}',
    1767225600000000, 1767225600000001, NULL,
    'sha256:3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7', NULL, NULL, 0);
INSERT INTO properties VALUES (1, 'os', '"linux"', 'linux');
INSERT INTO tags VALUES (1, 'tag');
INSERT INTO members VALUES (1, 'bob');
PRAGMA application_id = 1768776306;
PRAGMA user_version = 1;
"""


def test_a_store_of_version_1_is_read(store: Store) -> None:
    (store.directory / "images").mkdir(parents=True)
    (store.directory / "images" / ID).write_bytes(b"data")
    with closing(sqlite3.connect(store.directory / MARKER)) as db:
        for statement in schema.VERSION_1:
            db.execute(statement)
        db.executescript(VERSION_1)
    assert_that(
        store.get(ID, ALICE),
        MatchesStructure.byEquality(
            name="old", owner="alice", protected=True, size=4, min_disk=1, min_ram=2, tags=("tag",),
            members=("bob",), properties={"os": "linux"},
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
        ),
    )  # fmt: skip
    assert_that(store.read(ID, BOB), Equals(b"data"))
    assert_that(store.update(ID, name="new").name, Equals("new"))


def test_version_1_never_changes() -> None:
    text = "\n".join(" ".join(statement.split()) for statement in schema.VERSION_1)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert_that(digest, Equals("8b895053993cfc245b113b53766be0c2c6fc176d0f8cf856c9825cb44bd87a3f"))


def test_a_newer_store_is_a_config_error(store: Store, image: Image) -> None:
    store.sql("PRAGMA user_version = 99")
    for call in (lambda s: s.get(ID), lambda s: s.list(), lambda s: s.create()):
        with pytest.raises(ConfigError, match="version 99") as caught:
            call(Store(store.directory))
        assert_that(str(caught.value), Contains(str(store.directory)))
        assert_that(caught.value.hint, Contains("upgrade imagebroker"))


def test_a_database_of_somebody_else_is_a_config_error(store: Store) -> None:
    store.directory.mkdir()
    store.sql("CREATE TABLE theirs (x)")
    for call in (lambda: store.get(ID), store.create):
        with pytest.raises(ConfigError, match="not the database of an image store"):
            call()
    assert_that(store.sql("SELECT name FROM sqlite_master"), Equals([("theirs",)]))


def test_a_migration_is_done_once_and_whole(store: Store, image: Image) -> None:
    store.backend.close()
    path = store.directory / MARKER

    def add(db: sqlite3.Connection) -> None:
        db.execute("ALTER TABLE images ADD COLUMN colour TEXT DEFAULT 'red'")

    def fail(db: sqlite3.Connection) -> None:
        raise ValueError("half done")

    def migrate(*steps: schema.Migration) -> None:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as db:
            schema.migrate(db, migrations=(*schema.MIGRATIONS, *steps))

    with pytest.raises(ValueError, match="half done"):
        migrate(add, fail)
    newest = len(schema.MIGRATIONS)
    assert_that(store.sql("PRAGMA user_version"), Equals([(newest,)]))
    threads = [threading.Thread(target=migrate, args=(add,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_that(store.sql("PRAGMA user_version"), Equals([(newest + 1,)]))
    assert_that(store.sql("SELECT name, colour FROM images"), Equals([("n", "red")]))
