"""Images that are files on this host already: cloned by the kernel where it can."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator

from imagebroker.backends.opened_source import OpenedSource
from imagebroker.exceptions import (
    DestinationError,
    ImageBrokerError,
    ImageChanged,
    PolicyViolation,
    TransferError,
)
from imagebroker.system.file_state import FileState
from imagebroker.system.forks import close
from imagebroker.transfer.ranges import Range
from imagebroker.transfer.store.kernel_copy import copy_range, data_ranges, reflink
from imagebroker.transfer.store.part_file import PartFile

#: Bytes that are copied between two looks at the deadline.
_STEP = 32 * 1024 * 1024
_CHUNK = 1024 * 1024


#: Told where the copy has come to and how many bytes the last step moved; may raise to end it.
Copied = Callable[[int, int], None]


class LocalImage:
    """The file behind a source's `local_path`, copied by the core itself."""

    def __init__(self, opened: OpenedSource) -> None:
        """:raises PolicyViolation: it is not a regular file. :raises TransferError: unreadable."""
        self._opened = opened
        self._step = _STEP
        self.image = opened.image
        path = opened.local_path
        try:
            # O_NONBLOCK: a FIFO that took the file's place must not block us.
            self.fd = os.open(path or "", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise TransferError(
                f"{self.image.ref}: cannot read {path}: {error.strerror}", retryable=False
            ) from error
        try:
            found = self._checked()
            self._state, self.size = self._known(found)
        except ImageBrokerError:
            self.close()
            raise
        #: Bytes that it takes on the disk.
        self.allocated = min(found.st_blocks * 512, self.size)

    def _checked(self) -> os.stat_result:
        found, claimed = self._look(), self.image.size
        if not stat.S_ISREG(found.st_mode):
            raise PolicyViolation(f"{self.image.ref} is not a regular file")
        if claimed is not None and claimed != found.st_size:
            raise ImageChanged(f"{self.image.ref} has {found.st_size} bytes now, and had {claimed}")
        return found

    def _look(self) -> os.stat_result:
        try:
            return os.fstat(self.fd)
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: OSError) -> TransferError:
        return TransferError(
            f"{self.image.ref}: the file cannot be read: {error.strerror}",
            hint="the disk or file system below it is in trouble",
            retryable=False,
        )

    def _pread(self, size: int, position: int) -> bytes:
        try:
            return os.pread(self.fd, size, position)
        except OSError as error:
            raise self._unreadable(error) from error

    def _known(self, found: os.stat_result) -> tuple[FileState, int]:
        try:
            state = FileState.of(self.fd)
        except OSError as error:
            raise self._unreadable(error) from error
        if state.size is None:
            raise state.wrong_size(self.image.ref, 0)
        return state, state.size

    def check_unchanged(self) -> None:
        """:raises ImageChanged: somebody wrote to the file or cut it since it was opened."""
        try:
            self._state.check_same(self.fd, self.image.ref)
        except OSError as error:
            raise self._unreadable(error) from error

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        close(fd)

    def chunks(self, size: int) -> Iterator[bytes]:
        """All of it, in order. :raises TransferError: it cannot be read."""
        position = 0
        while position < self.size:
            chunk = self._pread(size, position)
            if not chunk:
                self.check_unchanged()
                raise self._state.wrong_size(self.image.ref, position)
            yield chunk
            position += len(chunk)

    def clone_into(self, part: PartFile, copied: Copied, step: int | None = None) -> None:
        """Give `part` the same bytes and holes, sharing blocks where the file system can.

        Never a hard link: a later write to one must not show in the other. `copied` is called after
        at most `step` bytes.
        """
        part.size = self.size
        self._step = min(step or _STEP, _STEP)
        try:
            shared = reflink(self.fd, part.fileno())
        except OSError as error:
            raise self._failed(error, part) from error
        if not shared:
            part.preallocate(self.size)
            for start, stop in self._data_ranges():
                copied(start, 0)
                self._copy_range(start, stop, part, copied)
        self.check_unchanged()
        copied(self.size, 0)

    def _data_ranges(self) -> Iterator[Range]:
        try:
            yield from data_ranges(self.fd, self.size)
        except OSError as error:
            raise self._unreadable(error) from error

    def _copy_range(self, start: int, stop: int, part: PartFile, copied: Copied) -> None:
        in_kernel = True
        while start < stop:
            step = min(stop - start, self._step)
            if in_kernel:
                try:
                    found = copy_range(self.fd, part.fileno(), start, step)
                except OSError as error:
                    raise self._failed(error, part) from error
                if found is None:
                    in_kernel = False
                    continue
                done = found
                part.copied(start, done)
            else:
                chunk = self._pread(min(step, _CHUNK), start)
                part.write(start, chunk)
                done = len(chunk)
            if not done:
                self.check_unchanged()
                raise self._state.wrong_size(self.image.ref, start)
            start += done
            copied(start, done)

    def _failed(self, error: OSError, part: PartFile) -> Exception:
        """The kernel does not say which side failed; only the destination runs out of room."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            return DestinationError.wrap(error, f"cannot write {part.shown!r}")
        return self._unreadable(error)
