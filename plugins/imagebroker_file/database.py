"""The SQLite file of a store, shared by threads and processes."""

from __future__ import annotations

import os
import sqlite3
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from imagebroker.plugin import BackendError, ConfigError, ImageBrokerError
from imagebroker_file.errors import translated, translated_sql
from imagebroker_file.schema import migrate

#: The database's name. A directory that has such a file is a store: no `file:` ref reaches below.
MARKER = "imagebroker-store.sqlite3"
#: Connections that are kept for the next call.
KEPT = 4


class Database:
    """Connections to one file, each used by one call at a time.

    Every connection knows which file it was opened on: a store that was removed and made again is
    never written to through the old one. No connection crosses a fork.
    """

    def __init__(
        self, path: Path, *, timeout: float, durable: bool, check: Callable[[], None]
    ) -> None:
        """`timeout`: seconds to wait for other writers. `durable`: a commit survives power loss.

        `check` raises where the file's directory must not be used; asked before it is opened.
        """
        self.path = path
        self._check = check
        self._timeout = timeout
        self._durable = durable
        self._idle: list[tuple[tuple[int, int], sqlite3.Connection]] = []
        self._closed = False
        with _guard:
            _databases.add(self)

    def exists(self) -> bool:
        """Whether there is a store at all."""
        return os.path.exists(self.path)

    def make(self, scratch: Path) -> None:
        """Make the database, complete or not at all; `scratch` is a directory beside it.

        Another process may do the same at this moment: the first wins, and both go on with its.
        """
        temporary = scratch / f"{uuid.uuid4().hex}.sqlite3"
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, 0o600))
            with translated_sql(self.path), closing(self._connect(temporary)) as db:
                db.execute("PRAGMA journal_mode = WAL")
                migrate(db, new=True)
            os.link(temporary, self.path)
        except (OSError, ImageBrokerError):
            if not self.exists():
                raise
        finally:
            for leftover in ("", "-wal", "-shm", "-journal"):
                Path(f"{temporary}{leftover}").unlink(missing_ok=True)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """One consistent view. :raises FileNotFoundError: there is no store."""
        with self._borrowed() as db:
            db.execute("BEGIN")
            yield db
            db.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, alone in the store from its begin: kept as a whole, or not at all.

        :raises FileNotFoundError: there is no store.
        """
        with self._borrowed() as db:
            # IMMEDIATE: a transaction that reads first could find, when it comes to write, that
            # another one was faster, and no waiting helps then.
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")

    @contextmanager
    def _borrowed(self) -> Iterator[sqlite3.Connection]:
        with translated_sql(self.path):
            identity, db = self._take()
            try:
                yield db
            except sqlite3.Error:
                db.close()  # which rolls back
                raise
            except BaseException:
                db.rollback()
                self._give_back(identity, db)
                raise
            self._give_back(identity, db)

    def _take(self) -> tuple[tuple[int, int], sqlite3.Connection]:
        identity = self._identity()
        with _guard:
            if self._closed:
                raise BackendError(
                    "the image store was closed",
                    hint="use the broker before it is closed",
                    retryable=False,
                )
            while self._idle:
                known, db = self._idle.pop()
                if known == identity:
                    return identity, db
                db.close()
        self._check()
        db = self._connect(self.path)
        try:
            migrate(db)
        except ConfigError as error:
            db.close()
            raise ConfigError(f"{self.path}: {error}", hint=error.hint) from error
        except BaseException:
            db.close()
            raise
        return identity, db

    def _identity(self) -> tuple[int, int]:
        with translated(f"the image store {self.path}"):
            try:
                status = os.stat(self.path)
            except FileNotFoundError:
                pass
            else:
                return status.st_dev, status.st_ino
        raise FileNotFoundError(self.path)

    def _give_back(self, identity: tuple[int, int], db: sqlite3.Connection) -> None:
        with _guard:
            if not self._closed and len(self._idle) < KEPT:
                self._idle.append((identity, db))
                return
        db.close()

    def _connect(self, path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(
            f"file:{quote(os.fsencode(path))}?mode=rw",  # never makes one
            uri=True,
            timeout=self._timeout,
            isolation_level=None,  # BEGIN is ours
            check_same_thread=False,  # one thread at a time, but not always the same one
        )
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA foreign_keys = ON")
        db.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        return db

    def close(self) -> None:
        """Close all connections; one that is in use closes when its call ends."""
        with _guard:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, db in idle:
            db.close()

    def close_idle(self) -> None:
        """Close what is not in use; the caller holds the guard."""
        while self._idle:
            self._idle.pop()[1].close()

    def abandon_idle(self) -> None:
        """Forget what is not in use without closing it: it is the parent process's."""
        _inherited.extend(self._idle)
        self._idle = []


# SQLite's connections must not be used, and not even closed, in a child process that inherited
# them: they are closed before every fork, and whoever borrows or gives back waits until it is over.
_guard = threading.Lock()
_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_inherited: list[object] = []


def _before_fork() -> None:
    _guard.acquire()
    for database in list(_databases):
        database.close_idle()


def _after_fork_in_parent() -> None:
    _guard.release()


def _after_fork_in_child() -> None:
    # Anew: a server that forks in C calls this alone, and perhaps while a thread has the lock.
    global _guard
    _guard = threading.Lock()
    for database in list(_databases):
        database.abandon_idle()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
