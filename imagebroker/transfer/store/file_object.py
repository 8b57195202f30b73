"""A destination that the caller has opened: a file, a block device, a pipe, a buffer."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from imagebroker.backends.backend import Buffer
from imagebroker.exceptions import DestinationError, ImageBrokerError
from imagebroker.system.forks import Process, tell_in_child
from imagebroker.system.readiness import Stalled, Waiting, is_not_ready


class FileObject:
    """Writes into the caller's object, which stays open.

    After an error a seekable object gets back its length and position; what was overwritten is
    lost. `error.bytes_written` says what it received.
    """

    def __init__(
        self,
        target: BinaryIO,
        *,
        fsync: bool = True,
        patience: float = 60.0,
        process: Process | None = None,
    ) -> None:
        """`patience`: seconds that an object in non-blocking mode may take nothing. `process`: the
        one that may write to it, by default this one.

        :raises DestinationError: it is closed, in text mode, or cannot be written.
        """
        self._target, self._fsync = target, fsync
        self._waiting = Waiting(target, patience, to_write=True)
        name = getattr(target, "name", type(target).__name__)
        self.shown = "standard output" if name == "<stdout>" else repr(name)
        if isinstance(target, io.TextIOBase) or not callable(getattr(target, "write", None)):
            raise DestinationError(
                f"the destination is {type(target).__name__}",
                hint="pass a path or a file object open for writing in binary mode",
            )
        if getattr(target, "closed", False):
            raise DestinationError(f"the destination {self.shown} is closed", hint="open it first")
        writable = getattr(target, "writable", None)
        if callable(writable) and not writable():
            raise DestinationError(f"the destination {self.shown} is not open for writing")
        #: Bytes that the object has received.
        self.size = 0
        #: The most that it had received before it was rewound.
        self._most = 0
        self._start = self._length = 0
        self._process, self._writing = process or Process(), False
        #: What is below a buffer of Python's, which a child has a copy of.
        self._raw = getattr(target, "raw", None)
        self._seekable = self._measure()
        tell_in_child(self)

    def in_child(self) -> None:
        """Redirect the child's copy of a write in progress to /dev/null: the parent writes it."""
        fd = self._fd() if self._writing and isinstance(self._raw, io.RawIOBase) else None
        if fd is not None:
            nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(nowhere, fd)
            os.close(nowhere)

    def _check_mine(self) -> None:
        """:raises Cancelled: it is written to by the process that this one was forked from."""
        self._process.check(f"the download to {self.shown}")

    def _measure(self) -> bool:
        """Note position and length; whether the object can go back to them."""
        try:
            self._start = self._target.tell()
            self._target.seek(0, os.SEEK_END)  # returns None where an object is only like a file
            self._length = self._target.tell()
            self._target.seek(self._start)
        except (AttributeError, TypeError, NotImplementedError, OSError, ValueError):
            return False  # TypeError: `seek` of oslo.vmware's handles takes one argument
        if self._appends():
            self._start = self._length  # where the bytes will go, whatever tell() says
        return True

    def _fd(self) -> int | None:
        try:
            return self._target.fileno()
        except (AttributeError, NotImplementedError, OSError, ValueError):
            return None

    def is_file(self, path: Path | None) -> bool:
        """Whether it is the file at `path`: what goes into it would come out of that again."""
        fd = self._fd()
        if fd is None or path is None:
            return False
        try:
            return os.path.samestat(os.fstat(fd), os.stat(path))
        except OSError:
            return False

    def _appends(self) -> bool:
        fd = self._fd()
        return fd is not None and bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND)

    def write(self, chunk: Buffer) -> None:
        """The next bytes.

        :raises DestinationError: the object fails, or takes part of them and no more.
        """
        self._check_mine()
        self._writing = True
        try:
            self._write(memoryview(chunk))
            if isinstance(self._raw, io.RawIOBase):
                # Or a child that is forked from now on would write it once more when it ends.
                self._flush()
        except OSError as error:
            raise DestinationError.wrap(error, f"cannot write to {self.shown}") from error
        finally:
            self._writing = False

    def _write(self, view: memoryview) -> None:
        while view:
            written = self._written(view)
            if not isinstance(written, int) or not 0 <= written <= len(view):
                raise DestinationError(
                    f"write() of {self.shown} returned {written!r} for {len(view)} bytes"
                )
            if written:
                self._waiting.over()
            else:
                self._wait()
            view = view[written:]
            self.size += written

    def _written(self, view: memoryview) -> Any:
        """The number of bytes that `write` has taken; 0 if the object is not ready."""
        try:
            written = self._target.write(view)
        except OSError as error:
            if not is_not_ready(error):
                raise DestinationError.wrap(error, f"cannot write to {self.shown}") from error
            # Only a buffer says how much it has taken nevertheless.
            return getattr(error, "characters_written", 0)
        except Exception as error:
            raise DestinationError(f"cannot write to {self.shown}: {error}") from error
        return 0 if written is None else written

    def _wait(self) -> None:
        try:
            self._waiting.wait()
        except Stalled as error:
            raise DestinationError(
                f"{self.shown} accepts no more bytes: {error}",
                hint="see why its reader has stopped, or open it in blocking mode",
            ) from error

    def rewind(self) -> bool:
        """Go back to where the first byte went, to receive others; False if it cannot.

        :raises DestinationError: it says that it can, and fails.
        """
        self._check_mine()
        if not self.size:
            return True
        if not self._seekable:
            return False
        self._give_back()
        self._most, self.size = max(self._most, self.size), 0
        return True

    def _give_back(self) -> None:
        try:
            self._target.seek(self._start)
            if self._start + self.size > self._length and not self._is_device():
                self._target.truncate(self._length)
                self._target.seek(self._start)
        except (AttributeError, OSError, ValueError) as error:
            number = error.errno if isinstance(error, OSError) else None
            raise DestinationError(f"cannot rewind {self.shown}: {error}", errno=number) from error

    def _is_device(self) -> bool:
        fd = self._fd()
        return fd is not None and stat.S_ISBLK(os.fstat(fd).st_mode)

    def commit(self) -> None:
        """Flush, and force to the disk what is one."""
        self._check_mine()
        try:
            self._flush()
            fd = self._fd()
            if fd is not None and self._fsync:
                mode = os.fstat(fd).st_mode
                if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
                    os.fsync(fd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # special files that cannot be synced
                raise DestinationError.wrap(error, f"cannot flush {self.shown}") from error

    def _flush(self) -> None:
        flush = getattr(self._target, "flush", None)
        while callable(flush):
            try:
                flush()
                self._waiting.over()
                return
            except OSError as error:
                if not is_not_ready(error):
                    raise
            self._wait()

    def discard(self, error: BaseException | None = None) -> None:
        """Give back length and position, and say in the error what the object received."""
        if not self._process.is_current:
            return  # they are the parent's, too
        most = max(self._most, self.size)
        lost = max(min(self._start + most, self._length) - self._start, 0)
        if self._seekable:
            try:
                self._give_back()
            except DestinationError as second:
                if error is not None:
                    error.add_note(str(second))
        if isinstance(error, ImageBrokerError):
            error.bytes_written = self.size
            if self.size:
                error.add_note(self._left(lost))

    def _left(self, lost: int) -> str:
        if not self._seekable:
            return f"{self.shown} had received {self.size} bytes, which cannot be taken back"
        if lost:
            return f"{lost} old bytes of {self.shown} were overwritten; the rest is as it was"
        return f"the {self.size} bytes that {self.shown} had received were removed again"

    def __enter__(self) -> FileObject:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self.discard(error)
