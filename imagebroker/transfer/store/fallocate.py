"""Blocks and holes of a file or a block device, through fallocate(2)."""

from __future__ import annotations

import ctypes
import errno
import os

from imagebroker.system.c_library import c_library

_KEEP_SIZE = 1
#: What reads as zeros from now on, without any being written; of a device only where it can.
PUNCH_HOLE = 2 | _KEEP_SIZE
#: The same, and a device that cannot is written to by the kernel.
ZERO_RANGE = 16 | _KEEP_SIZE


def allocate(fd: int, size: int) -> None:
    """Blocks for `size` bytes, which read as zeros; the file stays as long as it is.

    Not os.posix_fallocate, which writes to every block where the file system cannot do this.
    """
    code = fallocate(fd, _KEEP_SIZE, 0, size)
    if code not in (0, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
        raise OSError(code, os.strerror(code))


def punch(fd: int, start: int, stop: int) -> bool:
    """Whether there is a hole now."""
    return fallocate(fd, PUNCH_HOLE, start, stop - start) == 0


def fallocate(fd: int, mode: int, start: int, size: int) -> int:
    """0, or the error; ENOSYS where there is no such call (Linux 2.6.23)."""
    libc = c_library()
    if not hasattr(libc, "fallocate"):
        return errno.ENOSYS
    where = ctypes.c_int64(start), ctypes.c_int64(size)
    return ctypes.get_errno() if libc.fallocate(fd, ctypes.c_int(mode), *where) else 0
