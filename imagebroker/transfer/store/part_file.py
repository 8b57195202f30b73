"""A destination path: a part file beside it, until everything is verified and on the disk."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from imagebroker.backends.backend import Buffer
from imagebroker.exceptions import (
    BackendError,
    DestinationError,
    ImageNotFound,
    NotAuthorized,
    TransferError,
)
from imagebroker.model.upload_data import Hasher
from imagebroker.redaction import redact
from imagebroker.system.c_library import c_library
from imagebroker.system.files import is_named, write_all
from imagebroker.system.forks import Process, close, withhold
from imagebroker.transfer.ranges import Range
from imagebroker.transfer.store import part_directory as parts
from imagebroker.transfer.store.direct import DirectIO, DirectWriter
from imagebroker.transfer.store.directory import open_directory
from imagebroker.transfer.store.fallocate import allocate, punch
from imagebroker.transfer.store.file_systems import (
    can_be_as_large,
    close_and_store,
    close_once,
    is_fuse,
    rename_exclusively,
    sync_directory,
    takes_any_order,
)
from imagebroker.transfer.store.journal import Journal
from imagebroker.transfer.store.permissions import Permissions
from imagebroker.transfer.store.replaceable import OPENED, check_replaceable
from imagebroker.transfer.store.sparse import filled
from imagebroker.verify.checksum import new_hash

_NO_PART = "cannot create a file beside"
_NAME_MAX = 255
#: After these a part file is worth keeping: nothing is wrong with its bytes. A refusal may be that
#: of a signature that has run out, and "not found" that of a server that was not given the file.
INTERRUPTED = (
    TransferError,
    BackendError,
    NotAuthorized,
    ImageNotFound,
    KeyboardInterrupt,
    SystemExit,
)
#: Bytes that are read back at once.
_READ_BACK = 1024 * 1024


class PartFile:
    """The path stays as it is until `commit`, which replaces it in one step.

    The part file is created 0600 where `part_directory.place` says, locked, and removed by
    `discard`. All names are resolved once: the directories are held by descriptor.
    """

    def __init__(
        self,
        dest: str | bytes | os.PathLike[Any],
        *,
        key: str,
        fits: Callable[[Journal], bool] = lambda kept: False,
        overwrite: bool | None = True,
        file_mode: int | None = None,
        fsync: bool = True,
        keep: bool = False,
        preallocate: bool = False,
        direct: DirectIO | None = None,
    ) -> None:
        """Look at the destination; sweep what dead transfers left; open the part file.

        `key` distinguishes images in the part file's name. `fits`: whether what an earlier process
        left for this destination may be of the same image. `keep`: leave it to a later process
        after a failed or interrupted transfer, where `note` said that this makes sense.
        `overwrite`: whether to replace a file that is there. None: no, and `refuse_other` says so
        once it is known that it is not the image.
        `preallocate`: have the file system set aside the whole size before the first byte.
        `direct`: how to write what comes in order past the page cache, where that can be.

        :raises DestinationError: the path cannot take a file.
        """
        path = os.fsencode(dest)
        self.path = path
        #: For messages.
        self.shown = redact(os.fsdecode(path).encode("utf-8", "backslashreplace").decode())
        parent, self._name = os.path.split(path)
        if not self._name or self._name in (b".", b"..") or b"\0" in path:
            raise DestinationError(f"{self.shown!r} is not the name of a file", hint="name a file")
        self._overwrite, self._fsync = overwrite, fsync
        self._permissions = None if file_mode is None else Permissions(file_mode, asked=True)
        self._process = Process()
        #: That of the destination, and that of its part file.
        self._directory = withhold(open_directory(parent or b"."))
        self._parts = -1
        self.size = 0
        self._part: bytes | None = None
        self._fd = self._journal = -1
        #: Whether the file system takes bytes in order only, and gives none back before the end.
        self.sequential = self._fuse = False
        self._keep, self._noted = keep, False
        self._preallocate = preallocate
        #: Bytes that the journal confirms, and whether a later call is known to resume them.
        self._stored, self._resumes = 0, False
        # False once the file may have something else than zeros where nothing was written.
        self._holes = True
        # Bytes written since the kernel was last asked to begin writing back, and where they lie.
        self._unsynced, self._unsynced_from, self._unsynced_to = 0, _FAR, 0
        # Takes what comes in order; where that has got to, None before the first byte.
        self._direct: DirectWriter | None = None
        self._frontier: int | None = None
        #: What an earlier process left in the part file.
        self.kept: Journal | None = None
        try:
            self._look()
            with self._raising(_NO_PART):
                self._parts = withhold(parts.place(self._directory))
            self._take(key, fits, direct)
        except BaseException as error:
            self.discard(error)
            raise

    def _look(self) -> None:
        """Refuse what cannot be replaced by a regular file."""
        if len(self._name) > _NAME_MAX:
            error = OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            raise DestinationError.wrap(error, f"cannot write {self.shown!r}")
        if parts.is_ours(self._name):
            raise DestinationError(
                f"{self.shown!r} is a name for unfinished downloads, which are removed",
                hint=f"choose a name that does not end in {parts.SUFFIX} or {parts.JOURNAL_SUFFIX}",
            )
        if not self._overwrite:
            self._check_vacant()
        found = check_replaceable(self._directory, self._name, self.shown)
        if found is not None and stat.S_ISREG(found.st_mode) and self._permissions is None:
            self._permissions = Permissions.like(self._directory, self._name, found)

    def _check_vacant(self) -> None:
        """:raises DestinationError: something is there that no check will show to be the image."""
        found = self._there()
        if found is not None and not (self._overwrite is None and stat.S_ISREG(found.st_mode)):
            raise self._exists()

    def refuse_other(self) -> None:
        """Called if another file is there. :raises DestinationError: it must not be replaced."""
        if self._overwrite is None and self._there() is not None:
            raise self._exists(", and nothing shows that it is this image")

    def _there(self) -> os.stat_result | None:
        with self._raising("cannot write"):
            try:
                return os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
            except FileNotFoundError:
                return None

    def _exists(self, and_what: str = "") -> DestinationError:
        return DestinationError(
            f"{self.shown!r} already exists{and_what}",
            hint="choose another name, or allow it to be overwritten",
            errno=errno.EEXIST,
        )

    def _take(self, key: str, fits: Callable[[Journal], bool], direct: DirectIO | None) -> None:
        with self._raising(_NO_PART):
            part = parts.take(self._parts, self._name, key, fits)
        self._fd, self._part, self.kept = part.fd, part.name, part.kept
        self._try_out(part)
        if direct is not None:
            self._direct = DirectWriter.beside(self._fd, self._parts, part.name, direct)
        self.size = part.kept.end if part.kept is not None else 0
        if part.kept is not None:
            self._stored, self._resumes = part.kept.covered, part.kept.resumes

    @property
    def is_direct(self) -> bool:
        """Whether bytes may go past the page cache."""
        return self._direct is not None

    def _try_out(self, part: parts.Part) -> None:
        """Learn what the file system can do, so that it fails now and not after the last byte."""
        self._fuse = is_fuse(self._fd)
        if part.kept is None and self._fuse:
            try:
                parts.check_rename(self._parts, part.name)
            except OSError as error:
                raise DestinationError.wrap(
                    error,
                    f"the file system of {self.shown!r} cannot rename a file when it is complete",
                    hint=OPENED,
                ) from error
            self.sequential = not takes_any_order(self._fd)
        if self.sequential:
            self._holes = self._keep = self._preallocate = False
            if os.fstat(self._fd).st_size:
                self._make_anew()
        if self._permissions is not None:
            self._permissions.check(self._fd, self.shown)

    def _make_anew(self) -> None:
        """An empty file in place of the one that bytes were written to."""
        name = self._part
        if name is None:
            raise AssertionError("there is no part file")
        # In this order: closed after it was removed, it would be there again (rclone), or have been
        # given another name in the meantime (what is made with libfuse).
        close_and_store(self._fd)
        self._fd = -1
        parts.remove(self._parts, name)
        with self._raising(_NO_PART):
            part = parts.make(self._parts, [name])
        self._fd, self._part = part.fd, part.name

    def note(self, journal: Journal) -> None:
        """Record what a later process can resume. Nothing is written unless parts are kept."""
        if not self._keep or self._part is None or not journal.proves:
            return
        self._check_mine()
        self.flush()
        try:
            if self._journal < 0:
                self._journal = parts.open_journal(self._parts, self._part)
            journal.write(self._journal)
            self._noted = True
            self._stored, self._resumes = journal.covered, journal.resumes
        except OSError:
            self._keep = False  # a transfer that cannot be resumed is still a transfer

    def open_present(self) -> int:
        """The file that is at the path now, open for reading; -1 if it cannot be opened."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return -1 if self.sequential else os.open(self._name, flags, dir_fd=self._directory)
        except OSError:
            return -1

    def keep_present(self, fd: int) -> bool:
        """Leave that file in place as the result; False if another one is there by now.

        :raises OSError: it cannot be stored, or cannot get the mode that is asked for.
        """
        if not is_named(self._directory, self._name, fd):
            return False
        if self._permissions is not None and self._permissions.asked:
            self._permissions.apply(fd)
        if self._fsync:
            os.fsync(fd)
            sync_directory(self._directory)
        return True

    def fileno(self) -> int:
        return self._fd

    def reserve(self, size: int) -> None:
        """Refuse at once what cannot fit.

        :raises DestinationError: fewer than `size` bytes are free (ENOSPC), or no file can have so
            many there (EFBIG).
        """
        with self._raising("cannot look at the free space for"):
            free = os.fstatvfs(self._fd)
        available = free.f_bavail * free.f_frsize
        if free.f_blocks and size > available:  # without any block: it does not say
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise DestinationError.wrap(
                error, f"{self.shown!r} needs {size} bytes, and {available} are free"
            )
        if not can_be_as_large(self._fd, size):
            error = OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            raise DestinationError.wrap(
                error, f"{self.shown!r} needs {size} bytes, more than a file can have there"
            )

    @property
    def file(self) -> PartFile:
        """The kernel may copy a file of this host into it."""
        return self

    def new_hash(self, algorithm: str) -> Hasher:
        return new_hash(algorithm)  # type: ignore[no-any-return]

    @property
    def keeps(self) -> bool:
        """Whether `note` is of any use."""
        return self._keep and self._process.is_current

    def clear(self, gaps: Sequence[Range]) -> None:
        """Let these ranges read as zeros: an earlier process may have written there."""
        for start, stop in gaps:
            if start < self.size and not punch(self._fd, start, min(stop, self.size)):
                self._holes = False  # zeros will be written like everything else

    def preallocate(self, size: int) -> None:
        """Set aside `size` bytes on the disk, where that is wanted and the file system can.

        :raises DestinationError: they are not there any more (ENOSPC).
        """
        if not self._preallocate or size <= 0:
            return
        with self._raising(f"cannot set aside {size} bytes for"):
            allocate(self._fd, size)

    def write(self, offset: int, chunk: Buffer) -> None:
        """Store `chunk` at `offset`; zeros become holes. :raises DestinationError: as named."""
        self._check_mine()
        self.size = max(self.size, offset + len(chunk))
        view = memoryview(chunk)
        runs = filled(view, offset) if self._holes else [(0, len(view))]
        direct = self._direct if self._frontier in (None, offset) else None
        if direct is not None:
            self._frontier = offset + len(chunk)
        with self._raising("cannot write"):
            for start, stop in runs:
                if direct is None:
                    self._count_unsynced(offset + start, stop - start)
                    write_all(self._fd, view[start:stop], offset + start)
                else:
                    direct.write(offset + start, view[start:stop])
        self._begin_write_back()

    def append(self, chunk: Buffer) -> None:
        """Store `chunk` after what is there. :raises DestinationError: as named."""
        self.write(self.size, chunk)

    def copied(self, offset: int, size: int) -> None:
        """The kernel has put so many bytes there."""
        self._count_unsynced(offset, size)
        self._begin_write_back()

    def _count_unsynced(self, offset: int, size: int) -> None:
        self._unsynced += size
        self._unsynced_from = min(self._unsynced_from, offset)
        self._unsynced_to = max(self._unsynced_to, offset + size)

    def _begin_write_back(self) -> None:
        """Have the disk busy before the fsync at the end, which then finds little left to do."""
        if self._fsync and self._unsynced >= _WRITE_BACK:
            size = self._unsynced_to - self._unsynced_from
            _start_write_back(self._fd, self._unsynced_from, size)
            self._unsynced, self._unsynced_from, self._unsynced_to = 0, _FAR, 0

    def in_file(self, position: int) -> int:
        """How far, up to `position`, the file has what was given to `write`; others may read it."""
        return position if self._direct is None else self._direct.in_file(position)

    def flush(self) -> None:
        """Let the file have all that was given to `write`."""
        if self._direct is not None:
            with self._raising("cannot write"):
                self._direct.flush()

    def read_back(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` to `stop`, in order, a MiB at a time."""
        if self._direct is not None and self._direct.holds(start, stop):
            self.flush()
        while start < stop:
            size = min(_READ_BACK, stop - start)
            with self._raising("cannot read back"):
                chunk = os.pread(self._fd, size, start)
            # A hole at the end is not there yet: `commit` sets the size.
            yield chunk or bytes(size)
            start += len(chunk) or size

    def set_size(self) -> None:
        """Give the file its size: a hole at its end is not there before."""
        self.flush()
        if not self.sequential:
            with self._raising("cannot set the size of"):
                os.ftruncate(self._fd, self.size)

    def rewind(self) -> None:
        """Forget what was written: the transfer begins again."""
        self._check_mine()
        if self._direct is not None:
            self._direct.drop()
        if self.sequential:
            self._make_anew()
        else:
            with self._raising("cannot truncate"):
                os.ftruncate(self._fd, 0)
        self.size, self._holes, self._frontier = 0, not self.sequential, None
        self.forget()

    def forget(self) -> None:
        """Remove the journal: the stored bytes cannot be resumed, or do not match it."""
        if self._part is not None:
            parts.remove(self._parts, parts.journal_name(self._part))
        close(self._journal)
        self._journal, self._noted, self.kept = -1, False, None

    def commit(self) -> None:
        """Make it the file at the path, on the disk. The caller has verified what was written.

        :raises DestinationError: the path is as it was; except where only the directory could
            not be synced: then the complete image is there, and a power loss may take it back.
        """
        self._check_mine()
        self.set_size()
        permissions = self._permissions or Permissions.usual(self._directory)
        with self._raising("cannot set the mode of"):
            permissions.apply(self._fd)
        if self._fsync:
            with self._raising("cannot sync"):
                os.fsync(self._fd)
        with self._raising("cannot store"):
            self._settle()
        with self._raising("cannot replace" if self._overwrite else "cannot create"):
            self._rename()
        self.forget()
        self._part = None
        if self._fsync:
            with self._raising("the image is complete, but cannot sync the directory of"):
                sync_directory(self._directory)

    def _settle(self) -> None:
        """Let a file system that stores a file when it is closed do so, and say how that went."""
        close_once(self._fd)
        if self.sequential and self._part is not None:
            size = os.stat(self._part, dir_fd=self._parts, follow_symlinks=False).st_size
            if size != self.size:
                raise OSError(errno.EIO, f"{size} of {self.size} bytes were stored")

    def _rename(self) -> None:
        part = self._part
        if part is None:
            raise DestinationError("the part file was already committed")
        if self._overwrite:
            os.rename(part, self._name, src_dir_fd=self._parts, dst_dir_fd=self._directory)
            return
        try:
            rename_exclusively(self._parts, part, self._directory, self._name)
        except FileExistsError:
            raise self._exists() from None

    @contextmanager
    def _raising(self, what: str) -> Iterator[None]:
        """Turns an OSError into a DestinationError that says `what` went wrong."""
        try:
            yield
        except OSError as error:
            raise DestinationError.wrap(error, f"{what} {self.shown!r}") from error

    def discard(self, error: BaseException | None = None) -> None:
        """Remove the part file if it was not committed, or leave it to be taken up; never raises.

        It is left where parts are kept, `note` was given what proves the rest, now or by an
        earlier process, and the transfer broke or was interrupted. After a failed check or a
        violation of a policy it never is. It replaces others that were left for this destination.
        """
        if self._directory < 0:
            return
        if self._process.is_current:
            self._clear_up(error)
        for fd in (self._fd, self._directory, self._parts, self._journal):
            close(fd)
        self._fd = self._directory = self._parts = self._journal = -1

    def _clear_up(self, error: BaseException | None) -> None:
        proven = self._noted or (self._keep and self.kept is not None)
        broke = isinstance(error, INTERRUPTED)
        # A file in the way is no reason to remove what an earlier process left.
        untouched = not self._noted and getattr(error, "errno", None) == errno.EEXIST
        if self._part is not None and not (proven and (broke or untouched)):
            if self._fuse:  # see _make_anew
                close_and_store(self._fd)
                self._fd = -1
            parts.remove(self._parts, self._part)
            self.forget()
        elif self._part is not None:
            parts.remove_others(self._parts, self._name, self._part)
            if self._resumes and broke:
                # Ctrl-C is not an error of ours, and gets the attribute anyway.
                setattr(error, "bytes_kept", self._stored)  # noqa: B010
        if self._direct is not None:
            self._direct.close()

    def _check_mine(self) -> None:
        """:raises Cancelled: it is the part file of the process that this one was forked from."""
        self._process.check(f"the download to {self.shown!r}")

    def __enter__(self) -> PartFile:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.discard(error)


#: Bytes after which the kernel is asked to begin writing to the disk: the fsync at the end then
#: finds little left to do, instead of everything.
_WRITE_BACK = 16 * 1024 * 1024
_SYNC_FILE_RANGE_WRITE = 2
_FAR = 1 << 62


def _start_write_back(fd: int, start: int, size: int) -> None:
    """Begin writing these bytes to the disk, without waiting (sync_file_range, Linux 2.6.17).

    It is a hint: its errors are those that fsync will report.
    """
    libc = c_library()
    if size > 0 and hasattr(libc, "sync_file_range"):
        where = ctypes.c_int64(start), ctypes.c_int64(size)
        libc.sync_file_range(fd, *where, ctypes.c_uint(_SYNC_FILE_RANGE_WRITE))
