"""The tables of a store, and how older ones become the newest."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from imagebroker.plugin import ConfigError

#: Says in the file's header whose it is ("imbr").
APPLICATION_ID = 0x696D6272

VERSION_1 = (
    # Times are microseconds since 1970 (UTC); `upload` names the upload under way, `upload_undo`
    # the status to return to if it dies (NULL: then there is no record); `purge` is 1 while the
    # the data of a deleted image may still be there.
    """
    CREATE TABLE images (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        name TEXT,
        status TEXT NOT NULL,
        visibility TEXT NOT NULL,
        owner TEXT,
        hidden INTEGER NOT NULL,
        protected INTEGER NOT NULL,
        size INTEGER,
        virtual_size INTEGER,
        disk_format TEXT,
        container_format TEXT,
        min_disk INTEGER NOT NULL,
        min_ram INTEGER NOT NULL,
        checksums TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        deleted_at INTEGER,
        version TEXT,
        upload TEXT,
        upload_undo TEXT,
        purge INTEGER NOT NULL DEFAULT 0
    )
    """,
    # A list always has a status; equality comes first, then the order, then the id as tie-break.
    "CREATE INDEX images_created ON images (status, created_at, id)",
    "CREATE INDEX images_updated ON images (status, updated_at, id)",
    "CREATE INDEX images_by_name ON images (status, name, id)",
    "CREATE INDEX images_by_size ON images (status, size, id)",
    "CREATE INDEX images_named ON images (name, status, created_at, id)",
    "CREATE INDEX images_owned ON images (owner, status, created_at, id)",
    "CREATE INDEX images_visible ON images (visibility, status, created_at, id)",
    "CREATE INDEX images_upload ON images (upload) WHERE upload IS NOT NULL",
    "CREATE INDEX images_purge ON images (purge) WHERE purge = 1",
    # `value` is JSON, `text` what filters compare.
    """
    CREATE TABLE properties (
        image INTEGER NOT NULL REFERENCES images ON DELETE CASCADE,
        name TEXT NOT NULL,
        value TEXT NOT NULL,
        text TEXT NOT NULL,
        UNIQUE (image, name)
    )
    """,
    "CREATE INDEX properties_found ON properties (name, text, image)",
    """
    CREATE TABLE tags (
        image INTEGER NOT NULL REFERENCES images ON DELETE CASCADE,
        tag TEXT NOT NULL,
        UNIQUE (image, tag)
    )
    """,
    "CREATE INDEX tags_found ON tags (tag, image)",
    """
    CREATE TABLE members (
        image INTEGER NOT NULL REFERENCES images ON DELETE CASCADE,
        project TEXT NOT NULL,
        UNIQUE (image, project)
    )
    """,
    "CREATE INDEX members_found ON members (project, image)",
)


#: Ids of images whose records were purged.
_VERSION_2 = ("CREATE TABLE retired (id TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID",)


def _make_tables(db: sqlite3.Connection) -> None:
    for statement in VERSION_1:
        db.execute(statement)


def _add_retired(db: sqlite3.Connection) -> None:
    for statement in _VERSION_2:
        db.execute(statement)


Migration = Callable[[sqlite3.Connection], None]
#: The n-th makes a database of version n one of version n + 1. A published one never changes.
MIGRATIONS: tuple[Migration, ...] = (_make_tables, _add_retired)


def migrate(
    db: sqlite3.Connection, *, new: bool = False, migrations: Sequence[Migration] = MIGRATIONS
) -> None:
    """Upgrade a database to the newest version, in one transaction.

    :raises ConfigError: it is newer than this code, or (unless `new`) not a store.
    """
    if _steps(db, new, migrations):
        db.execute("BEGIN IMMEDIATE")
        try:
            for step in _steps(db, new, migrations):  # asked again: another process may be first
                step(db)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {len(migrations)}")
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")


def _steps(
    db: sqlite3.Connection, new: bool, migrations: Sequence[Migration]
) -> Sequence[Migration]:
    """The migrations that a database still needs."""
    version = _pragma(db, "user_version")
    if not new and _pragma(db, "application_id") != APPLICATION_ID:
        raise ConfigError(
            "this is not the database of an image store",
            hint="set store_dir to a directory that nothing else uses",
        )
    if version > len(migrations):
        raise ConfigError(
            f"the image store has version {version}; this imagebroker supports up to "
            f"{len(migrations)}",
            hint="upgrade imagebroker: pip install --upgrade imagebroker",
        )
    return migrations[version:]


def _pragma(db: sqlite3.Connection, name: str) -> int:
    (value,) = db.execute(f"PRAGMA {name}").fetchone()
    return int(value)
