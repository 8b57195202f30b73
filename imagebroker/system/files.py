"""Open files: locks (flock), whether a name or descriptor is of another one, writing all bytes."""

from __future__ import annotations

import fcntl
import os

#: Bytes that are written at once. For more, ext4 takes memory in blocks that a virtual machine may
#: have given back to its host: ten times the time of the copy.
_BLOCK = 512 * 1024


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Lock an open file; False if somebody else has it locked. The lock goes with the opening.

    :raises OSError: locks do not work there, as on some network file systems.
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(fd: int) -> None:
    """Lock an open file, however long that takes. :raises OSError: locks do not work there."""
    fcntl.flock(fd, fcntl.LOCK_EX)


def unlock(fd: int) -> None:
    """:raises OSError: locks do not work there."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def is_same(fd: int, other: int) -> bool:
    """Whether two descriptors are of one file. :raises OSError: fstat fails."""
    return os.path.samestat(os.fstat(fd), os.fstat(other))


def write_all(fd: int, view: memoryview, offset: int) -> None:
    """Write all bytes of `view` at `offset`. :raises OSError: as `os.pwrite`."""
    while view:
        written = os.pwrite(fd, view[:_BLOCK], offset)
        view, offset = view[written:], offset + written


def is_named(directory: int | None, name: str | bytes | os.PathLike[str], fd: int) -> bool:
    """Whether `name` leads to the open file `fd`; a symbolic link of that name does not.

    :raises OSError: stat fails, for another reason than that the file is missing.
    """
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(fd))
