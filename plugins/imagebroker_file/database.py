"""The SQLite file of a store, shared by threads and processes."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import quote

from imagebroker.plugin import BackendError, ConfigError, ImageBrokerError, forks
from imagebroker_file.errors import is_busy, translated, translated_sql
from imagebroker_file.gate import GATE
from imagebroker_file.schema import migrate

#: The name of the database. A directory with such a file is a store: `file:` refs cannot read it.
MARKER = "imagebroker-store.sqlite3"
#: Maximum number of idle connections.
KEPT = 4
#: Seconds that SQLite itself waits for another process.
_SQLITE_TIMEOUT = 0.02
#: The first and the longest pause (seconds) before the next attempt while others write.
_SHORTEST, _LONGEST = 0.001, 0.05
#: Device and inode of a database.
FileId = tuple[int, int]


class Database:
    """Connections to one file, each used by one call at a time.

    Every connection remembers its file: a store that was removed and created again is not written
    to through the old connections. No connection is used after a fork, see `gate`.
    """

    def __init__(
        self, path: Path, *, timeout: float, durable: bool, check: Callable[[], None]
    ) -> None:
        """`timeout`: seconds to wait for other writers. `durable`: a commit survives power loss.

        `check` raises if the file's directory must not be used; called before it is opened.
        """
        self.path = path
        self._check = check
        self._timeout = timeout
        self._durable = durable
        self._idle: list[tuple[FileId, sqlite3.Connection]] = []
        self._used: dict[int, tuple[FileId, sqlite3.Connection]] = {}
        #: Files with a transaction of the parent process in the thread that forked.
        self._lost: set[FileId] = set()
        self._closed = False
        GATE.admit(self)

    def exists(self) -> bool:
        """Whether there is a store."""
        return os.path.exists(self.path)

    def make(self, scratch: Path) -> None:
        """Create the database, completely or not at all; `scratch` is a directory beside it.

        If another process does the same at this moment, the first one wins, and both use it.
        """
        temporary = scratch / f"{uuid.uuid4().hex}.sqlite3"
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, 0o600))
            with GATE.inside(), translated_sql(self.path), closing(self._connect(temporary)) as db:
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
        # The first read decides which view it is, and may have to wait: so it is done here.
        with self._transaction("BEGIN", "SELECT count(*) FROM sqlite_master") as db:
            yield db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One write transaction, committed completely or not at all.

        :raises FileNotFoundError: there is no store.
        """
        # IMMEDIATE: a transaction that reads first and writes later can fail because of another
        # writer, and then waiting does not help.
        with self._transaction("BEGIN IMMEDIATE") as db:
            yield db

    @contextmanager
    def _transaction(self, *begin: str) -> Iterator[sqlite3.Connection]:
        """Waits for other writers outside of the gate: otherwise forks would have to wait, too."""
        ends, pause = monotonic() + self._timeout, _SHORTEST
        while True:
            with translated_sql(self.path), GATE.inside():
                db = self._begun(begin, patiently=monotonic() < ends)
                if db is not None:
                    with self._ended(db):
                        yield db
                    return
            sleep(pause)
            pause = min(2 * pause, _LONGEST)

    def _begun(self, begin: Sequence[str], *, patiently: bool) -> sqlite3.Connection | None:
        """A connection with a transaction; None if others write and there is time left."""
        db: sqlite3.Connection | None = None
        try:
            db = self._take()
            for statement in begin:
                db.execute(statement).fetchall()
            return db
        except sqlite3.OperationalError as error:
            if db is not None:
                self._drop(db)
            if patiently and is_busy(error):
                return None
            raise

    @contextmanager
    def _ended(self, db: sqlite3.Connection) -> Iterator[None]:
        """Commit at the end of the block, or roll back."""
        process = forks.Process()
        try:
            yield
            db.execute("COMMIT")
        except BaseException as error:
            if process.is_current:  # not in a child that was forked in the block
                if isinstance(error, sqlite3.Error):
                    self._drop(db)  # which rolls back
                else:
                    db.rollback()
                    self._give_back(db)
            raise
        self._give_back(db)

    def _take(self) -> sqlite3.Connection:
        file_id = self._file_id()
        if self._closed:
            raise BackendError(
                "the image store is closed",
                hint="use the broker before closing it",
                retryable=False,
            )
        if file_id in self._lost:
            raise BackendError(
                f"the image store {self.path} cannot be used in this process, which was forked "
                "during a transaction of the same thread",
                hint="fork while no call to the store is running",
                retryable=False,
            )
        while (idle := self._pop()) is not None:
            known, db = idle
            if known == file_id:
                self._used[id(db)] = idle
                return db
            db.close()
        return self._opened(file_id)

    def _pop(self) -> tuple[FileId, sqlite3.Connection] | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None  # another thread took it

    def _opened(self, file_id: FileId) -> sqlite3.Connection:
        self._check()
        db = self._connect(self.path)
        self._used[id(db)] = file_id, db
        try:
            migrate(db)
        except BaseException as error:
            self._drop(db)
            if isinstance(error, ConfigError):
                raise ConfigError(f"{self.path}: {error}", hint=error.hint) from error
            raise
        return db

    def _file_id(self) -> FileId:
        with translated(f"the image store {self.path}"):
            try:
                status = os.stat(self.path)
            except FileNotFoundError:
                pass
            else:
                return status.st_dev, status.st_ino
        raise FileNotFoundError(self.path)

    def _give_back(self, db: sqlite3.Connection) -> None:
        if len(self._idle) >= KEPT:
            self._drop(db)
            return
        self._idle.append(self._used.pop(id(db)))
        if self._closed:
            self.close_idle()

    def _drop(self, db: sqlite3.Connection) -> None:
        if self._used.pop(id(db), None) is not None:  # else it is the parent's
            db.close()

    def _connect(self, path: Path) -> sqlite3.Connection:
        db = sqlite3.connect(
            f"file:{quote(os.fsencode(path))}?mode=rw",  # never creates one
            uri=True,
            timeout=_SQLITE_TIMEOUT,
            isolation_level=None,  # BEGIN is explicit
            check_same_thread=False,  # one thread at a time, but not always the same one
        )
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA foreign_keys = ON")
        db.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
        return db

    def close(self) -> None:
        """Close all connections; one that is in use closes when its call ends."""
        with GATE.inside():
            self._closed = True
            self.close_idle()

    def close_idle(self) -> None:
        """Close idle connections; call it inside the gate."""
        while (idle := self._pop()) is not None:
            idle[1].close()

    def in_child(self) -> None:
        """Forget the parent's connections, without closing them.

        SQLite assumes that a second connection to the same file shares the locks of the first one,
        which the child does not have: so such a file cannot be used in the child.
        """
        for file_id, db in [*self._used.values(), *self._idle]:
            forks.never_finalize(db)
            self._lost.add(file_id)
        self._used, self._idle = {}, []
