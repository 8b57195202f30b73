"""Detects that a file is modified while it is read, by comparing its attributes."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from imagebroker.exceptions import ImageChanged, TransferError


@dataclass(frozen=True)
class FileState:
    """The attributes of an open file that change when its bytes do."""

    #: Size in bytes; None if the file system says 0 but there is data, as in /proc, where content
    #: is generated while it is read.
    size: int | None
    _length: int
    _modified: int
    _changed: int
    _entry: tuple[object, ...]

    @classmethod
    def of(cls, fd: int) -> FileState:
        """:raises OSError: stat or a read failed."""
        found = os.fstat(fd)
        length = found.st_size
        sizeless = stat.S_ISREG(found.st_mode) and not length and os.pread(fd, 1, 0)
        return cls(
            None if sizeless else length,
            length,
            found.st_mtime_ns,
            found.st_ctime_ns,
            _entry(fd, found),
        )

    def check_same(self, fd: int, ref: str) -> None:
        """:raises ImageChanged: the file was modified. :raises OSError: stat failed."""
        now = os.fstat(fd)
        if now.st_size != self._length:
            raise _changed(ref, f"it had {self._length} bytes and now has {now.st_size}")
        if now.st_mtime_ns != self._modified:
            raise _changed(ref, "its modification time changed")
        # The ctime detects a writer that resets the mtime. It also changes when the file is
        # renamed, unlinked, or gets another owner or mode: then the bytes are still the same.
        if now.st_ctime_ns != self._changed and _entry(fd, now) == self._entry:
            raise _changed(ref, "its change time changed")

    def wrong_size(self, ref: str, position: int) -> TransferError:
        """The error for an unmodified file that has `position` bytes, not the size it reports."""
        known = "at least 1 byte" if self.size is None else f"{position} bytes"
        return TransferError(
            f"{ref} has {known}, but its file system reports {self._length}",
            hint="copy it first, for example with cat, and use the copy",
            retryable=False,
        )


def _entry(fd: int, found: os.stat_result) -> tuple[object, ...]:
    """The rest of a file's state that its ctime covers: names, owner and mode."""
    name = os.readlink(f"/proc/self/fd/{fd}")
    return found.st_nlink, found.st_mode, found.st_uid, found.st_gid, name


def _changed(ref: str, what: str) -> ImageChanged:
    return ImageChanged(
        f"{ref} was modified while it was read: {what}",
        hint="try again when the file is complete; to replace a file, rename a new one over it",
    )
