"""Translates errors of the operating system and of SQLite."""

from __future__ import annotations

import errno
import os
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imagebroker.plugin import BackendError, ImageBrokerError, NotAuthorized, QuotaExceeded


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Translate OSErrors of the store's files; the text begins with `what`."""
    try:
        yield
    except OSError as error:
        raise _from_os(error, f"{what}: {error.strerror or error}") from error


#: SQLite's error codes if it cannot map shared memory.
_NO_MEMORY = (sqlite3.SQLITE_IOERR_NOMEM, sqlite3.SQLITE_IOERR_SHMMAP)


def _no_descriptor_is_left() -> bool:
    """Whether no file can be opened at all: SQLite does not report the reason."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


def _from_os(error: OSError, text: str) -> ImageBrokerError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        # As in an image service: the store is full, not a destination of the caller.
        hint = "free some space on the store's file system, or delete images"
        return QuotaExceeded(text, hint=hint, errno=error.errno)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "set store_dir to a directory that this user can write to"
        if isinstance(error.filename, str) and (theirs := _of_another_user(error.filename)):
            hint = f"take back what another user has made: sudo chown -R {os.geteuid()} {theirs}"
        return NotAuthorized(text, hint=hint, errno=error.errno)
    return BackendError(
        text, hint="check store_dir and its file system", errno=error.errno, retryable=False
    )


def _of_another_user(path: str) -> str | None:
    """The first file or directory on the way that lies in a directory of this user, and belongs to
    another: what `sudo` leaves if it keeps HOME. Quoted for a shell.
    """
    mine = False
    for each in (*reversed(Path(path).parents), Path(path)):
        try:
            owner = os.stat(each, follow_symlinks=False).st_uid
        except OSError:
            return None
        if mine and owner != os.geteuid():
            return shlex.quote(os.fspath(each))
        mine = owner == os.geteuid()
    return None


@contextmanager
def translated_sql(path: Path) -> Iterator[None]:
    """Translate SQLite's errors, by primary result code."""
    try:
        yield
    except sqlite3.Error as error:
        raise _from_sqlite(error, f"the image store {path}: {error}") from error


def is_busy(error: sqlite3.Error) -> bool:
    """Whether other connections use the database."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _from_sqlite(error: sqlite3.Error, text: str) -> ImageBrokerError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR) and _no_descriptor_is_left():
        return BackendError(f"{text}: {os.strerror(errno.EMFILE)}", errno=errno.EMFILE)
    if getattr(error, "sqlite_errorcode", 0) in _NO_MEMORY:
        return BackendError(f"{text}: {os.strerror(errno.ENOMEM)}", errno=errno.ENOMEM)
    if code == sqlite3.SQLITE_FULL:
        return QuotaExceeded(text, hint="free some space on its file system, or delete images")
    if is_busy(error):
        return BackendError(text, hint="other processes keep it busy: try again later")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        hint = "run as the user who owns the store; even reading needs write access"
        return NotAuthorized(text, hint=hint)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        hint = "restore the database from a backup; the data files beside it have the image ids"
        return BackendError(text, hint=hint, retryable=False)
    return BackendError(text, hint="check the disk and its file system", retryable=False)
