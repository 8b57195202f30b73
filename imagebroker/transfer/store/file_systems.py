"""The file system of an open file, and its abilities."""

from __future__ import annotations

import ctypes
import errno
import os

from imagebroker.system.c_library import c_library
from imagebroker.system.files import lock
from imagebroker.system.forks import close

EXT4, XFS, FUSE = 0xEF53, 0x58465342, 0x65735546
#: What says that a file system knows no such thing; nothing was done.
UNSUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)

_RENAME_NOREPLACE = 1
#: Room for struct statfs, which begins with the type, a long.
_STATFS = ctypes.c_char * 256


def kind_of(fd: int) -> int | None:
    """The number of the file system's type (statfs(2)); None if unknown."""
    libc = c_library()
    found = _STATFS()
    if not hasattr(libc, "fstatfs") or libc.fstatfs(fd, found) != 0:
        return None
    return ctypes.c_long.from_buffer(found).value


def is_fuse(fd: int) -> bool:
    """Whether a program serves the file system, which may be able to do much or little."""
    return kind_of(fd) == FUSE


def takes_any_order(fd: int) -> bool:
    """Whether the new, empty file `fd` can be written in any order, cut, and read back.

    Clouds that are mounted often take a file's bytes from the first to the last, and give none back
    before it is closed. It is tried out; the file may be longer afterwards where it is not so.
    """
    try:
        os.ftruncate(fd, 8192)
        os.pwrite(fd, b"\1", 4096)
        right = os.pread(fd, 4097, 0) == bytes(4096) + b"\1"
        os.ftruncate(fd, 0)
        return right and os.fstat(fd).st_size == 0
    except OSError:
        return False


def sync_directory(fd: int) -> None:
    """:raises OSError: its entries may not be on the disk, though the file system can do that."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def close_and_store(fd: int) -> None:
    """Close a new file that is about to be renamed or removed; a cloud has it when this returns.

    Closing waits for the cloud only where something was written (rclone). An empty file would be
    stored some time later, under the name that it had by then, after it was removed too.
    """
    try:
        if os.fstat(fd).st_size == 0:
            os.pwrite(fd, b"\0", 0)
    except OSError:
        pass  # then it is not stored either
    finally:
        close(fd)


def close_once(fd: int) -> None:
    """Learn what the file system says when a file is closed; `fd` stays open, and locked.

    Network and cloud file systems store what was written no later than that. :raises OSError: they
    could not.
    """
    os.close(os.dup(fd))


def can_be_as_large(fd: int, size: int) -> bool:
    """Whether the file system has files of so many bytes: those of vfat end at 4 GiB."""
    try:
        os.lseek(fd, size, os.SEEK_SET)  # nothing here reads or writes where that leads
    except OSError as error:
        return error.errno not in (errno.EINVAL, errno.EOVERFLOW, errno.EFBIG)
    return True


def rename_exclusively(source: int, old: bytes, target: int, new: bytes) -> None:
    """Rename that fails with FileExistsError instead of replacing (renameat2, Linux 3.15)."""
    libc = c_library()
    if libc.renameat2(source, old, target, new, _RENAME_NOREPLACE) == 0:
        return
    code = ctypes.get_errno()
    if code not in UNSUPPORTED:
        raise OSError(code, os.strerror(code))
    try:
        # Without the flag: a second name fails where the first exists, as one step.
        os.link(old, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:
        _rename_if_absent(source, old, target, new)  # nor second names
    else:
        os.unlink(old, dir_fd=source)


def _rename_if_absent(source: int, old: bytes, target: int, new: bytes) -> None:
    """Look, then rename: alone among those who do so through this function.

    Taking the name first with an empty file would leave that behind where the process is killed:
    nothing but a complete image may ever have the name.
    """
    # A separate descriptor: the lock goes with it.
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target)
    try:
        try:
            lock(fd)
        except OSError:
            pass  # no locks either
        try:
            os.stat(new, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(old, new, src_dir_fd=source, dst_dir_fd=target)
            return
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    finally:
        os.close(fd)
