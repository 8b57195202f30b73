"""The data files of a store: uploads, stored images, and leftovers of killed processes."""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imagebroker.plugin import ImageData, forks, make_private, open_owned
from imagebroker_file.errors import translated

LOG = logging.getLogger(__name__)

#: Blocks of this many zeros become holes.
BLOCK = 64 * 1024
_ZEROS = bytes(BLOCK)
#: How to open a file that may be anything.
_OPEN_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class DataFiles:
    """A directory for stored data, with files named by image id, and one for uploads."""

    def __init__(self, directory: Path, option: str, *, fsync: bool) -> None:
        """`option`: the option that names the directory, for messages."""
        self.directory = directory
        self._option = option
        self.uploads = directory / "incoming"
        self._images = directory / "images"
        self._fsync = fsync

    def make(self) -> None:
        """Create the directories, for this user only.

        :raises ConfigError: other users can write to an existing directory.
        """
        with translated(f"cannot create the image store {self.directory}"):
            os.close(open_owned(self.directory, self._option, readable=True))
            for directory in (self.uploads, self._images):
                make_private(directory)

    def check(self) -> None:
        """:raises ConfigError: other users can write to the store: its files cannot be trusted."""
        with translated(f"cannot use the image store {self.directory}"):
            os.close(open_owned(self.directory, self._option, readable=True, make=False))

    def sync(self) -> None:
        """Make the entries of the store's directory survive power loss."""
        self._sync_directory(self.directory)

    @contextmanager
    def receive(self) -> Iterator[Upload]:
        """A file for an upload; it is removed at the end, unless it was published."""
        with translated(f"cannot write to the image store {self.directory}"):
            upload = self._new_upload()
        try:
            yield upload
        finally:
            upload.close()

    def _new_upload(self) -> Upload:
        while True:
            path = self.uploads / uuid.uuid4().hex
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            upload = Upload(self, path, forks.withhold(fd))
            # A sweep may have found it before it was locked.
            if upload.lock():
                return upload
            upload.close()

    def is_live(self, token: str) -> bool:
        """Whether a process still works on the upload. Its file is removed if not."""
        path = self.uploads / token
        try:
            return not _removed(path)
        except OSError as error:
            # Not a reason to refuse an upload: the file is left alone.
            LOG.warning("cannot check whether %s is still in use: %s", path, error.strerror)
            return True

    def is_locked(self, token: str) -> bool:
        """Whether a process still works on the upload. Nothing is removed."""
        try:
            fd = os.open(self.uploads / token, _OPEN_FLAGS)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # as in is_live
        try:
            return not _locked(fd)
        finally:
            os.close(fd)

    def sweep(self) -> None:
        """Remove the files in `incoming` whose process has ended."""
        with translated(f"cannot clean up {self.uploads}"):
            for name in os.listdir(self.uploads):
                self.is_live(name)

    def publish(self, upload: Upload, image_id: str) -> None:
        """Give a complete upload its final name; within a write transaction of the database."""
        with translated(f"cannot store the data of image {image_id}"):
            os.rename(upload.path, self._images / image_id)
            upload.published = True
            self._sync_directory(self._images)

    def open(self, image_id: str) -> int:
        """A descriptor of stored data. :raises FileNotFoundError: there is no data."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(self._images / image_id, flags)

    def remove(self, image_id: str) -> None:
        """Remove stored data, if there is any; open descriptors can still read it."""
        with translated(f"cannot remove the data of image {image_id}"):
            try:
                os.unlink(self._images / image_id)
            except FileNotFoundError:
                return
            # The record forgets the file next: after a power loss it would reappear, and stay.
            self._sync_directory(self._images)

    def _sync_directory(self, directory: Path) -> None:
        if not self._fsync:
            return
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def finish(self, fd: int, size: int) -> None:
        """Give a file its length, and let it survive power loss."""
        os.ftruncate(fd, size)
        if self._fsync:
            os.fsync(fd)


class Upload:
    """The file of an upload, locked as long as its process works on it."""

    def __init__(self, data_files: DataFiles, path: Path, fd: int) -> None:
        self.path = path
        #: Whether the file has its final name.
        self.published = False
        self._files = data_files
        self._fd = fd
        self._process = forks.Process()

    @property
    def token(self) -> str:
        """Its name in the record."""
        return self.path.name

    def lock(self) -> bool:
        """Whether this process alone has the file, and it still exists."""
        return _locked(self._fd) and os.fstat(self._fd).st_nlink > 0

    def store(self, data: ImageData) -> int:
        """Write all of `data`; returns its size.

        :raises UploadFailed: the source of the data failed, or had another size than announced.
        :raises QuotaExceeded, BackendError: the store cannot be written.
        """
        position = 0
        with translated(f"cannot write the data to the image store {self._files.directory}"):
            for chunk in data:
                if chunk != _ZEROS:
                    _write(self._fd, chunk, position)
                position += len(chunk)
            self._files.finish(self._fd, position)
        return position

    def close(self) -> None:
        """Close the file, and remove it if it was not published."""
        try:
            if not self.published and self._process.is_current:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            LOG.warning("cannot remove %s yet: %s", self.path, error.strerror)
        finally:
            forks.release(self._fd)


def _write(fd: int, chunk: bytes, position: int) -> None:
    view = memoryview(chunk)
    while view:
        written = os.pwrite(fd, view, position)
        view = view[written:]
        position += written


def _removed(path: Path) -> bool:
    """Remove the file of an upload whose process has ended; returns whether it is gone."""
    try:
        fd = os.open(path, _OPEN_FLAGS)
    except FileNotFoundError:
        return True
    try:
        if not _locked(fd):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    """Take the lock, which ends with the process; False if another process has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_regular(fd: int, size: int | None) -> str | None:
    """What is wrong with stored data that should have `size` bytes; None if nothing is."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_size != size:
        return f"has {status.st_size} bytes on disk, but {size} in its record"
    return None
