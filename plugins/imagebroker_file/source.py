"""An opened file as a source: the descriptor that was checked is the one that is read."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from imagebroker.plugin import (
    Buffer,
    FileState,
    Image,
    ImageChanged,
    ImageSource,
    TransferError,
)

#: Bytes in one chunk.
CHUNK = 1024 * 1024


class FileSource(ImageSource):
    """The content of a descriptor, which it owns from now on.

    A file that is removed or replaced meanwhile is still read to its end. One that is modified
    raises `ImageChanged`.
    """

    seekable = True
    parallel_reads = 4

    def __init__(self, fd: int, image: Image) -> None:
        self._state = FileState.of(fd)
        self.image = replace(image, size=self._state.size)
        if self._state.size is None:  # generated while it is read: in order, and only once
            self.seekable, self.parallel_reads = False, 1
        else:
            # Not the path: it could name another file by now than the one that was checked.
            self.local_path = Path(f"/proc/self/fd/{fd}")
        self._file = _Descriptor(fd)  # last: until then, the caller owns the descriptor

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        """The bytes from `start` to `stop`.

        :raises ImageChanged: the file was written to after it had been opened.
        :raises TransferError: the device failed, or the source was closed.
        """
        end = self._state.size if stop is None else stop
        self._read_chunk(start, 0)
        while end is None or start < end:
            size = CHUNK if end is None else min(CHUNK, end - start)
            chunk = self._read_chunk(start, size)
            if chunk:
                yield chunk
            elif end is None:
                return
            else:
                raise self._state.wrong_size(self.image.ref, start)
            start += len(chunk)

    def _read_chunk(self, start: int, size: int) -> bytes:
        try:
            with self._file.held() as fd:
                chunk = os.pread(fd, size, start)
                self._state.check_same(fd, self.image.ref)
        except OSError as error:
            raise self._unreadable(error, start) from error
        return chunk

    def _unreadable(self, error: OSError, start: int) -> ImageChanged | TransferError:
        if error.errno == errno.ESTALE:
            return ImageChanged(
                f"{self.image.ref} was removed from its file server while it was read",
                hint="to replace a file, rename a new one over it",
            )
        if error.errno == errno.EBADF:
            return TransferError(
                f"{self.image.ref} was closed while it was read",
                hint="close the source only after all bytes are read",
                retryable=False,
            )
        return TransferError(
            f"{self.image.ref} cannot be read at byte {start}: {error.strerror}",
            hint="check the health of the disk or the file server",
            errno=error.errno,
        )

    def close(self) -> None:
        """Close the file; a `read` that waits for the disk ends with its current chunk."""
        self._file.close()


class _Descriptor:
    """A file descriptor that is closed once, and never while another thread reads from it.

    The kernel reuses the number of a closed descriptor: a late read would read another file.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._readers = 0
        self._closed = False

    @contextmanager
    def held(self) -> Iterator[int]:
        """The number, valid inside the block. :raises OSError: EBADF if it was closed."""
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._readers += 1
        try:
            yield self._fd
        finally:
            with self._lock:
                self._readers -= 1
                self._close_unused()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._close_unused()

    def _close_unused(self) -> None:
        if self._closed and not self._readers and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()
