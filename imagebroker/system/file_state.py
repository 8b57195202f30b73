"""Whether somebody writes to a file while it is read: a look at the beginning, others later."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from imagebroker.exceptions import ImageChanged, TransferError


@dataclass(frozen=True)
class FileState:
    """What moves when the bytes of an open file do."""

    #: Bytes; None where there are some and the file system says that there are none, as /proc does,
    #: and others for what is made while it is read.
    size: int | None
    _length: int
    _modified: int
    _changed: int
    _entry: tuple[object, ...]

    @classmethod
    def of(cls, fd: int) -> FileState:
        """:raises OSError: the file cannot be looked at."""
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
        """:raises ImageChanged: the file was written to. :raises OSError: nobody can tell."""
        now = os.fstat(fd)
        if now.st_size != self._length:
            raise _changed(ref, f"it had {self._length} bytes and now has {now.st_size}")
        if now.st_mtime_ns != self._modified:
            raise _changed(ref, "its modification time moved")
        # The ctime finds a writer who puts the mtime back. It also moves when the file gets
        # another name, owner or mode, or loses its name: then the bytes are still the same.
        if now.st_ctime_ns != self._changed and _entry(fd, now) == self._entry:
            raise _changed(ref, "its change time moved")

    def wrong_size(self, ref: str, position: int) -> TransferError:
        """What to raise where a file that nobody wrote to has `position` bytes or more instead."""
        known = "at least 1 byte" if self.size is None else f"{position} bytes"
        return TransferError(
            f"{ref} has {known}, and its file system says {self._length}",
            hint="its size is not known before it is read: copy it with cat, and use the copy",
            retryable=False,
        )


def _entry(fd: int, found: os.stat_result) -> tuple[object, ...]:
    """What moves a file's ctime although its bytes stay: its names, owner and mode."""
    name = os.readlink(f"/proc/self/fd/{fd}")
    return found.st_nlink, found.st_mode, found.st_uid, found.st_gid, name


def _changed(ref: str, what: str) -> ImageChanged:
    return ImageChanged(
        f"{ref} was written to while it was read: {what}",
        hint="try again when nobody writes to the file; replace files by renaming new ones",
    )
