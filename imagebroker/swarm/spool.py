"""The chunks of one download as files, in the process that reads them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import time
from typing import BinaryIO

from imagebroker.swarm.certificates import NAME
from imagebroker.swarm.chunks import own_folder
from imagebroker.swarm.plan import Layout
from imagebroker.system.files import try_lock
from imagebroker.system.forks import Condition

#: Bytes after which whoever waits for more is woken: each time costs as much as the bytes do. Who
#: looks by itself sees those that are there.
_STEP = 256 * 1024
#: Seconds after which nobody will lock a directory any more that was made for a download.
_ABANDONED = 3600.0


class Spool:
    """`own-N` grows while it is read here, and is `N-own/NAME` when it was hashed; what came from
    others lies in a folder that was told. `changed` guards all of it."""

    def __init__(self, layout: Layout, folder: Path) -> None:
        self.layout, self._folder = layout, folder
        self.changed = Condition()
        self._whole: set[int] = set()
        #: Folders of chunks that others sent.
        self._places: dict[int, str] = {}
        #: Bytes of each chunk that the backend has sent, from its beginning.
        self._read: dict[int, int] = {}
        self._files: dict[int, int] = {}
        #: Descriptors that a read may still use.
        self._stale: list[int] = []

    # -- what is there ---------------------------------------------------------------------------

    def has(self, index: int) -> bool:
        with self.changed:
            return index in self._whole

    def there(self, index: int) -> int:
        """Bytes of a chunk that can be read, from its beginning."""
        with self.changed:
            return self.layout.length(index) if index in self._whole else self._read.get(index, 0)

    def wait_for(self, index: int, offset: int, looked: Callable[[], None], seconds: float) -> int:
        """Until bytes beyond `offset` are there: so many of the chunk are. Every so many seconds
        `looked` is called, which may raise."""
        with self.changed:
            while (there := self.there(index)) <= offset:
                looked()
                self.changed.wait(seconds)
            return there

    def read(self, index: int, offset: int, most: int) -> bytes:
        """:raises OSError: it is gone."""
        with self.changed:
            if index not in self._files:
                self._files[index] = self._open(index, os.O_RDONLY)
            fd = self._files[index]
        return os.pread(fd, most, offset)

    def writer(self, index: int) -> BinaryIO:
        """To correct a chunk that is whole. :raises OSError: it is gone."""
        with self.changed:
            return os.fdopen(self._open(index, os.O_RDWR), "r+b")

    def _open(self, index: int, mode: int) -> int:
        """A chunk that is whole. :raises OSError: it is gone."""
        if (place := self._places.get(index)) is not None:
            return os.open(self._folder / place / NAME, mode | os.O_CLOEXEC)
        try:
            return os.open(self._folder / f"own-{index}", mode | os.O_CLOEXEC)
        except FileNotFoundError:  # the other process has hashed it
            return os.open(self._folder / own_folder(index) / NAME, mode | os.O_CLOEXEC)

    # -- what comes ------------------------------------------------------------------------------

    def arrived(self, index: int, folder: str) -> None:
        """It came from others, and lies where libtorrent has put it."""
        with self.changed:
            if index not in self._whole:
                self._retire(index)  # what was read here of it so far is not where the whole is
                self._places[index] = folder
                self._whole.add(index)
            self.changed.notify_all()

    def _retire(self, index: int) -> None:
        """Open it anew, for the next who reads it."""
        if (fd := self._files.pop(index, None)) is not None:
            self._stale.append(fd)

    def begun(self, index: int) -> int:
        """A descriptor to write on what the backend sends of a chunk, behind what it has sent.

        :raises OSError: it cannot be written.
        """
        path = self._folder / f"own-{index}"
        with self.changed:
            fresh = 0 if self._read.get(index) else os.O_TRUNC
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | fresh, 0o600)
            os.lseek(fd, self._read.setdefault(index, 0), os.SEEK_SET)
            if index not in self._whole:  # else it lies elsewhere
                self._retire(index)
                self._files[index] = os.dup(fd)
        return fd

    def append(self, index: int, fd: int, data: memoryview) -> bool:
        """Keep what the backend sent; whether the chunk is whole now.

        :raises OSError: there is no room.
        """
        with self.changed:
            before = self._read[index]
        while data:
            written = os.write(fd, data[:_STEP])
            data = data[written:]
            with self.changed:
                self._read[index] += written
        with self.changed:
            there = self._read[index]
            whole = there == self.layout.length(index)
            if whole:
                if self._places.pop(index, None) is not None:
                    self._retire(index)  # what the backend sent is right
                self._whole.add(index)
            if whole or there // _STEP != before // _STEP:
                self.changed.notify_all()
        return whole

    def release(self, index: int) -> None:
        """It was handed out."""
        with self.changed:
            if index in self._whole and (fd := self._files.pop(index, None)) is not None:
                os.close(fd)

    def close(self) -> None:
        with self.changed:
            for fd in (*self._files.values(), *self._stale):
                with suppress(OSError):
                    os.close(fd)
            self._files.clear()
            self._stale.clear()


def new_spool(directory: Path) -> str:
    """A directory for one download; what dead processes have left is removed: at once where the
    second process had locked it, else after an hour.

    :raises OSError: it cannot be made.
    """
    for each in directory.iterdir():
        with suppress(OSError):
            if _is_abandoned(each):
                shutil.rmtree(each, ignore_errors=True)
    return tempfile.mkdtemp(prefix="swarm-", dir=directory)


def _is_abandoned(spool: Path) -> bool:
    """:raises OSError: that cannot be told."""
    try:
        fd = os.open(spool / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return spool.stat().st_mtime < time() - _ABANDONED
    try:
        return try_lock(fd)
    finally:
        os.close(fd)
