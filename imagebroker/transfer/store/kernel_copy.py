"""Copies from file to file inside the kernel: shared blocks, ranges, and where the holes are."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator

from imagebroker.transfer.ranges import Range

_FICLONE = 0x40049409
#: What says that two files cannot share or copy inside the kernel.
_CANNOT = {errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EPERM}


def reflink(source: int, target: int) -> bool:
    """Let `target` share all blocks of `source`; False if these two files cannot (FICLONE).

    :raises OSError: it failed.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return True


def copy_range(source: int, target: int, start: int, size: int) -> int | None:
    """Copy at most `size` bytes at `start`; how many, None if the kernel cannot between these two.

    :raises OSError: it failed; the kernel does not say on which side.
    """
    try:
        return os.copy_file_range(source, target, size, start, start)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return None


def data_ranges(fd: int, size: int) -> Iterator[Range]:
    """The parts of a file that are not holes. :raises OSError: it cannot be read."""
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            yield position, size  # holes are unknown there: all of it is data
            return
        position = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        yield start, position
