"""The files of a store: bytes that arrive, stored bytes, and what killed processes left."""

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
#: How to look at what others may have put there.
_LOOK = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Bits:
    """One directory for stored bits, named by image id, and one for those that arrive."""

    def __init__(self, directory: Path, option: str, *, fsync: bool) -> None:
        """`option`: which one names the directory, for messages."""
        self.directory = directory
        self._option = option
        self.incoming = directory / "incoming"
        self._images = directory / "images"
        self._fsync = fsync

    def make(self) -> None:
        """Make the directories, for this user only.

        :raises ConfigError: what is there may be written to by others.
        """
        with translated(f"the image store {self.directory} cannot be made"):
            os.close(open_owned(self.directory, self._option, readable=True))
            for directory in (self.incoming, self._images):
                make_private(directory)

    def check(self) -> None:
        """:raises ConfigError: others may write to the store: what lies there decides nothing."""
        with translated(f"the image store {self.directory} cannot be used"):
            os.close(open_owned(self.directory, self._option, readable=True, make=False))

    def sync(self) -> None:
        """Make the entries of the store's directory survive power loss."""
        self._sync_directory(self.directory)

    @contextmanager
    def receive(self) -> Iterator[Upload]:
        """A place for bytes that arrive; at the end it is gone, unless it was published."""
        with translated(f"the image store {self.directory} cannot take data"):
            upload = self._new_upload()
        try:
            yield upload
        finally:
            upload.close()

    def _new_upload(self) -> Upload:
        while True:
            path = self.incoming / uuid.uuid4().hex
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            upload = Upload(self, path, forks.withhold(fd))
            # A sweep may have found it before it was locked.
            if upload.lock():
                return upload
            upload.close()

    def is_live(self, token: str) -> bool:
        """Whether a process still works on the upload. Its file is removed if not."""
        path = self.incoming / token
        try:
            return not _removed(path)
        except OSError as error:
            # No reason to refuse an upload; what nobody can look at is left alone.
            LOG.warning("cannot tell whether %s is still in use: %s", path, error.strerror)
            return True

    def is_locked(self, token: str) -> bool:
        """Whether a process still works on the upload. Nothing is removed."""
        try:
            fd = os.open(self.incoming / token, _LOOK)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # as in is_live
        try:
            return not _locked(fd)
        finally:
            os.close(fd)

    def sweep(self) -> None:
        """Remove what processes left in `incoming` that are no more."""
        with translated(f"{self.incoming} cannot be swept"):
            for name in os.listdir(self.incoming):
                self.is_live(name)

    def publish(self, upload: Upload, image_id: str) -> None:
        """Give complete bytes their final name. The caller is alone in the store's database."""
        with translated(f"the data of image {image_id} cannot be stored"):
            os.rename(upload.path, self._images / image_id)
            upload.published = True
            self._sync_directory(self._images)

    def open(self, image_id: str) -> int:
        """A descriptor of stored bits. :raises FileNotFoundError: there are none."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(self._images / image_id, flags)

    def remove(self, image_id: str) -> None:
        """Remove stored bits, if there are any; who has them open reads on to the end."""
        with translated(f"the data of image {image_id} cannot be removed"):
            try:
                os.unlink(self._images / image_id)
            except FileNotFoundError:
                return
            # The record forgets them next: if they came back after a power loss, they would stay.
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
    """A file that bytes go into, locked for as long as a process works on it."""

    def __init__(self, bits: Bits, path: Path, fd: int) -> None:
        self.path = path
        #: Whether the file has its final name.
        self.published = False
        self._bits = bits
        self._fd = fd
        self._process = forks.Process()

    @property
    def token(self) -> str:
        """What the record calls it."""
        return self.path.name

    def lock(self) -> bool:
        """Whether the file is this process's alone, and still there."""
        return _locked(self._fd) and os.fstat(self._fd).st_nlink > 0

    def store(self, data: ImageData) -> int:
        """Write all of `data`; its size.

        :raises UploadFailed: the source of the data failed, or had another size than it said.
        :raises QuotaExceeded, BackendError: the store cannot take it.
        """
        position = 0
        with translated(f"the image store {self._bits.directory} cannot take the data"):
            for chunk in data:
                if chunk != _ZEROS:
                    _write(self._fd, chunk, position)
                position += len(chunk)
            self._bits.finish(self._fd, position)
        return position

    def close(self) -> None:
        """Let go, and remove the file where it was not published."""
        try:
            if not self.published and self._process.is_current:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            LOG.warning("%s stays until the next sweep: %s", self.path, error.strerror)
        finally:
            forks.release(self._fd)


def _write(fd: int, chunk: bytes, position: int) -> None:
    view = memoryview(chunk)
    while view:
        written = os.pwrite(fd, view, position)
        view = view[written:]
        position += written


def _removed(path: Path) -> bool:
    """Remove the file of an upload whose process is no more; whether it is gone."""
    try:
        fd = os.open(path, _LOOK)
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
    """Take the lock, which ends with the process; False if somebody else has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_regular(fd: int, size: int | None) -> str | None:
    """What is wrong with stored bits that should have `size` bytes; None if nothing is."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return "are no regular file"
    if status.st_size != size:
        return f"have {status.st_size} bytes on disk, and the record says {size}"
    return None
