"""Part files by name: created, resumed, and swept when no process uses them any more."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from time import time
from typing import NamedTuple

from imagebroker.exceptions import DestinationError
from imagebroker.system.files import is_named, try_lock
from imagebroker.system.forks import close, withhold
from imagebroker.transfer.store import journal
from imagebroker.transfer.store.file_systems import close_and_store
from imagebroker.transfer.store.journal import Journal

#: Part files end in this; Nova uses `.part` itself.
SUFFIX = ".imagebroker-part"
#: The journal of a part file that may be taken up again.
JOURNAL_SUFFIX = ".imagebroker-journal"
#: Names that only part files have: with the key of an image (see `take`), and perhaps a number.
_OURS = re.compile(rb"\..+\.[0-9a-f]{16}(-[0-9a-f]{8})?\.imagebroker-(part|journal)\Z", re.DOTALL)
#: What follows the name of a destination there.
_KEY = re.compile(rb"[0-9a-f]{16}(-[0-9a-f]{8})?\.imagebroker-part")
_NAME_MAX = 255
#: A file system cannot rename if so many trials fail.
_TRIALS = 8
#: Seconds after which a part file counts as abandoned even if it has a journal, or if locks do not
#: work here (some network file systems).
ABANDONED = 86400.0
_READ_WRITE = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# O_TRUNC: or rclone refuses to write what has appeared in its cloud meanwhile, though empty.
_CREATE = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
#: What says that a file cannot be opened for reading and writing at once.
_ONE_WAY = (errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


class Part(NamedTuple):
    """An open, locked part file."""

    fd: int
    name: bytes
    #: What an earlier process left in it; None for a new one.
    kept: Journal | None = None


def place(directory: int) -> int:
    """A descriptor of the directory for part files of destinations in `directory`: the same one.

    Another one must be on the same file system: a complete file is renamed into its place.
    :raises OSError: it cannot be opened.
    """
    return os.dup(directory)


def part_name(name: bytes, key: str, suffix: str = SUFFIX) -> bytes:
    """`.<name>.<key><suffix>`, the middle shortened to fit into 255 bytes."""
    tail = f".{key}{suffix}".encode()
    room = _NAME_MAX - len(f".{key}{JOURNAL_SUFFIX}") - 10
    if len(name) > room:
        digest = hashlib.sha256(name).hexdigest()[:16].encode()
        name = name[: room - 17] + b"~" + digest
    return b"." + name + tail


def is_ours(name: bytes) -> bool:
    """Whether a file of that name is taken for a part file, or a journal, and swept."""
    return _OURS.match(name) is not None


def journal_name(part: bytes) -> bytes:
    return part.removesuffix(SUFFIX.encode()) + JOURNAL_SUFFIX.encode()


def take(
    directory: int, name: bytes, key: str, fits: Callable[[Journal], bool] = lambda kept: False
) -> Part:
    """The part file that an earlier process left for this destination, or a new one (0600).

    Of those that fit, the one with most bytes, and the others go; else the one with this key.

    :raises OSError, DestinationError: none can be made.
    """
    fitting = [(part, kept) for part, kept in _left_for(directory, name) if fits(kept)]
    fitting.sort(key=lambda each: each[1].covered, reverse=True)
    found = None
    for part, _ in fitting:
        if found is None:
            found = _adopt(directory, part)
        else:
            _sweep_one(directory, part, waiting=False)
    if found is None:
        found = _adopt(directory, part_name(name, key))
    sweep(directory)
    if found is not None:
        return found
    return make(directory, (part_name(name, each) for each in _keys(key)))


def _left_for(directory: int, name: bytes) -> Iterator[tuple[bytes, Journal]]:
    """The part files of a destination that may be taken up again, locked ones too."""
    key = "0" * 16
    stem = part_name(name, key).removesuffix(f"{key}{SUFFIX}".encode())
    try:
        entries = os.listdir(directory)
    except OSError:
        return
    for each in map(os.fsencode, entries):
        if each.startswith(stem) and _KEY.fullmatch(each[len(stem) :]):
            kept = _journal(directory, each)
            if kept is not None:
                yield each, kept


def remove_others(directory: int, name: bytes, part: bytes) -> None:
    """Keep one part file of a destination for a later process: remove all unlocked ones but
    `part`."""
    for each, _ in list(_left_for(directory, name)):
        if each != part:
            _sweep_one(directory, each, waiting=False)


def _keys(key: str) -> Iterator[str]:
    yield key
    for _ in range(8):
        yield f"{key}-{secrets.token_hex(4)}"


def make(directory: int, names: Iterable[bytes]) -> Part:
    """A new part file (0600), with the first of these names that is free.

    :raises OSError, DestinationError: none can be made.
    """
    for name in names:
        made = _create(directory, name)
        if made is not None:
            return made
    raise DestinationError("no free name for a temporary file in the directory")


def check_rename(directory: int, part: bytes) -> None:
    """:raises OSError: a file beside `part` cannot be given another name."""
    for more in reversed(range(_TRIALS)):
        try:
            _rename_trial(directory, part)
            return
        except FileNotFoundError:
            # Closed, the trial has no lock: the sweep of another download may have taken it.
            if not more:
                raise


def _rename_trial(directory: int, part: bytes) -> None:
    suffix = SUFFIX.encode()
    old, new = (
        part.removesuffix(suffix)[: -len(end)] + end + suffix
        for end in (secrets.token_hex(4).encode() for _ in range(2))
    )
    fd = os.open(old, os.O_WRONLY | _CREATE, 0o600, dir_fd=directory)
    try:
        close_and_store(fd)
        os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory)
        old = new
    finally:
        remove(directory, old)


def _create(directory: int, name: bytes) -> Part | None:
    """None if the name is taken, or a sweep took the file before it was locked."""
    try:
        fd = _open_new(directory, name)
    except FileExistsError:
        return None
    try:
        if _lock(fd) is not False and is_named(directory, name, fd):
            return Part(fd, name)
    except BaseException:
        close(fd)
        os.unlink(name, dir_fd=directory)
        raise
    close(fd)
    return None


def _open_new(directory: int, name: bytes) -> int:
    try:
        return os.open(name, os.O_RDWR | _CREATE, 0o600, dir_fd=directory)
    except OSError as error:
        if error.errno not in _ONE_WAY:
            raise
    return os.open(name, os.O_WRONLY | _CREATE, 0o600, dir_fd=directory)


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
        if _is_ours_alone(os.fstat(fd)) and _lock(fd) is True and is_named(directory, name, fd):
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
        fd = os.open(journal_name(part), _READ, dir_fd=directory)
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
    """A descriptor of the journal beside a part file. :raises OSError: it cannot be made.

    One that is there is written over, in one step: made anew it would say nothing for a moment,
    and a process that is killed then would lose all that was stored before.
    """
    name = journal_name(part)
    try:
        fd = os.open(name, _READ_WRITE, dir_fd=directory)
    except OSError:
        pass
    else:
        try:
            ours = _is_ours_alone(os.fstat(fd))
        except OSError:
            ours = False
        if ours:
            return withhold(fd)
        close(fd)
    remove(directory, name)
    return withhold(os.open(name, os.O_RDWR | _CREATE, 0o600, dir_fd=directory))


def _is_ours_alone(found: os.stat_result) -> bool:
    """Whether it is a regular file of this user, with one name."""
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1


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
        return try_lock(fd)
    except OSError:
        return None


def sweep(directory: int) -> int:
    """Remove part files that are neither in use nor resumable; return their number.

    One with a journal is kept for a day, for a process that resumes it.
    """
    try:
        entries = os.listdir(directory)
    except OSError:
        return 0  # it cannot be listed: writing may still work
    ours = set(filter(is_ours, map(os.fsencode, entries)))
    found = {name for name in ours if name.endswith(SUFFIX.encode())}
    for name in ours - found - set(map(journal_name, found)):
        remove(directory, name)
    return sum(_sweep_one(directory, name) for name in found)


def _open_locked(directory: int, name: bytes) -> tuple[int, bool | None]:
    """A descriptor of a part file that may be another process's, and what `_lock` says of it.

    For reading, if that will do: a cloud that is written in order may fail a writer when another
    one comes. NFS gives the lock only to who may write. :raises OSError: it cannot be opened.
    """
    fd = os.open(name, _READ, dir_fd=directory)
    locked = _lock(fd)
    if locked is not None:
        return fd, locked
    close(fd)
    fd = os.open(name, _READ_WRITE, dir_fd=directory)
    return fd, _lock(fd)


def _sweep_one(directory: int, name: bytes, *, waiting: bool = True) -> bool:
    """`waiting`: one that is young and has a journal waits for somebody to go on with it."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            return False
        fd, locked = _open_locked(directory, name)
    except OSError:
        return False
    try:
        young = time() - found.st_mtime < ABANDONED
        if locked is False or not is_named(directory, name, fd):
            return False
        awaited = waiting and _journal(directory, name) is not None
        if young and (locked is None or awaited):
            return False
        os.unlink(name, dir_fd=directory)
        remove(directory, journal_name(name))
        return True
    except OSError:
        return False
    finally:
        close(fd)
