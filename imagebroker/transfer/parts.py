"""Part files by name: made, taken up again, and swept when nobody works on them any more."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import re
import secrets
import stat
from dataclasses import dataclass
from time import time

from imagebroker.exceptions import DestinationError
from imagebroker.forks import withhold
from imagebroker.transfer import journal
from imagebroker.transfer.directory import close
from imagebroker.transfer.journal import Journal

#: Part files end in this; Nova uses `.part` itself.
SUFFIX = ".imagebroker-part"
#: The journal of a part file that may be taken up again.
JOURNAL_SUFFIX = ".imagebroker-journal"
_PART = re.compile(rb"\..+\.imagebroker-part\Z", re.DOTALL)
_JOURNAL = re.compile(rb"\..+\.imagebroker-journal\Z", re.DOTALL)
_NAME_MAX = 255
#: Seconds after which a part file counts as abandoned though it has a journal, or though locks do
#: not work here (some network file systems) and nobody can tell.
ABANDONED = 86400.0
_READ_WRITE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class Part:
    """An open, locked part file."""

    fd: int
    name: bytes
    #: What an earlier process left in it; None for a new one.
    kept: Journal | None = None


def part_name(name: bytes, key: str, suffix: str = SUFFIX) -> bytes:
    """`.<name>.<key><suffix>`, the middle shortened to fit into 255 bytes."""
    tail = f".{key}{suffix}".encode()
    room = _NAME_MAX - len(f".{key}{JOURNAL_SUFFIX}") - 10
    if len(name) > room:
        digest = hashlib.sha256(name).hexdigest()[:16].encode()
        name = name[: room - 17] + b"~" + digest
    return b"." + name + tail


def journal_name(part: bytes) -> bytes:
    return part.removesuffix(SUFFIX.encode()) + JOURNAL_SUFFIX.encode()


def take(directory: int, name: bytes, key: str) -> Part:
    """The part file that an earlier process left for this destination and key, or a new one (0600).

    :raises OSError, DestinationError: none can be made.
    """
    found = _adopt(directory, part_name(name, key))
    sweep(directory)
    if found is not None:
        return found
    for each in itertools.chain([key], (f"{key}-{secrets.token_hex(4)}" for _ in range(8))):
        made = _create(directory, part_name(name, each))
        if made is not None:
            return made
    raise DestinationError("no free name for a temporary file in the directory")


def _create(directory: int, name: bytes) -> Part | None:
    """None if the name is taken, or a sweep took the file before it was locked."""
    try:
        fd = os.open(name, _CREATE | os.O_EXCL, 0o600, dir_fd=directory)
    except FileExistsError:
        return None
    try:
        if _lock(fd) is not False and _is_named(directory, name, fd):
            return Part(fd, name)
    except BaseException:
        close(fd)
        os.unlink(name, dir_fd=directory)
        raise
    close(fd)
    return None


def _adopt(directory: int, name: bytes) -> Part | None:
    """An unlocked part file of our own with a readable journal."""
    kept = _journal(directory, name)
    if kept is None:
        return None
    try:
        fd = os.open(name, _READ_WRITE, dir_fd=directory)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1
        if ours and _lock(fd) is True and _is_named(directory, name, fd):
            os.fchmod(fd, 0o600)
            # What lies beyond was never counted; a hole at the end was never written.
            os.ftruncate(fd, kept.end)
            return Part(fd, name, kept)
    except OSError:
        pass  # not to be used: the transfer begins with a new one
    close(fd)
    return None


def _journal(directory: int, part: bytes) -> Journal | None:
    try:
        fd = os.open(journal_name(part), _READ_WRITE, dir_fd=directory)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            return None
        return journal.read(fd)
    except OSError:
        return None
    finally:
        close(fd)


def open_journal(directory: int, part: bytes) -> int:
    """A descriptor of the journal beside a part file, made anew. :raises OSError: it cannot be."""
    name = journal_name(part)
    remove(directory, name)
    return withhold(os.open(name, _CREATE | os.O_EXCL, 0o600, dir_fd=directory))


def remove(directory: int, name: bytes) -> None:
    """Unlink, if it is there and can be."""
    try:
        os.unlink(name, dir_fd=directory)
    except OSError:
        pass  # already gone, or the file system is: a later sweep sees to it


def _lock(fd: int) -> bool | None:
    """True if the lock is ours, False if another process has it, None if locks do not work."""
    withhold(fd)  # a child would have the lock too, for as long as it lives
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_named(directory: int, name: bytes, fd: int) -> bool:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)


def sweep(directory: int) -> int:
    """Remove the part files that nobody works on and nobody can take up; how many there were.

    One with a journal waits a day for a process that goes on with it.
    """
    try:
        names = {os.fsencode(entry) for entry in os.listdir(directory)}
    except OSError:
        return 0  # not to be listed: writing may work all the same
    for name in names:
        if _JOURNAL.match(name):
            part = name.removesuffix(JOURNAL_SUFFIX.encode()) + SUFFIX.encode()
            if part not in names:
                remove(directory, name)
    return sum(_sweep_one(directory, name) for name in names if _PART.match(name))


def _sweep_one(directory: int, name: bytes) -> bool:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            return False
        fd = os.open(name, _READ_WRITE, dir_fd=directory)
    except OSError:
        return False
    try:
        locked = _lock(fd)
        young = time() - found.st_mtime < ABANDONED
        if locked is False or not _is_named(directory, name, fd):
            return False
        if young and (locked is None or _journal(directory, name) is not None):
            return False
        os.unlink(name, dir_fd=directory)
        remove(directory, journal_name(name))
        return True
    except OSError:
        return False
    finally:
        close(fd)
