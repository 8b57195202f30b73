"""Where running transfers are announced: files that are locked as long as their writer lives.

The kernel lets go of a lock (flock) when its process dies, however it dies. Where locks do nothing,
on some network file systems, every transfer finds its name free and runs by itself.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import time
from typing import Any, Protocol

from imagebroker.exceptions import ConfigError
from imagebroker.system.files import is_named, is_same, try_lock, unlock
from imagebroker.system.forks import Process, close, tell_in_child, withhold
from imagebroker.system.owned_directory import OwnedByAnother, open_owned

LOG = logging.getLogger(__name__)

#: Bytes that one announcement may take: two paths of 4096 bytes in JSON's spelling are in it.
_ROOM = 64 * 1024
#: Bytes before an announcement: its length and its checksum.
_HEAD = 18
#: Seconds after which the file of a killed process is removed.
_ABANDONED = 86400.0
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Flights(Protocol):
    """Files by name, the same for all who share downloads."""

    def open(self, name: str) -> int:
        """A new descriptor of the file, which is created if it is missing."""

    def is_current(self, name: str, fd: int) -> bool:
        """Whether that descriptor is of the file that has this name now."""

    def remove(self, name: str) -> None:
        """Give the name to the next file."""


class FlightsOnDisk:
    """The flights of all processes of this user with the same `state_dir`."""

    def __init__(self, path: Path, *, configured: bool = True) -> None:
        self._path, self._configured = path, configured

    def open(self, name: str) -> int:
        """:raises ConfigError: the directory that was configured is open to other users.
        :raises OSError: it cannot be used, or is another user's, who shares the config file.
        """
        try:
            directory = open_owned(self._path, "[imagebroker] state_dir")
        except OwnedByAnother as error:
            if self._configured:
                LOG.warning("%s: downloads are not shared", error)
            raise OSError(str(error)) from error
        except ConfigError as error:
            if self._configured:
                raise
            raise OSError(str(error)) from error
        try:
            fd = os.open(name, _OPEN, 0o600, dir_fd=directory)
        finally:
            os.close(directory)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(f"{name} is not a regular file")
        except OSError:
            os.close(fd)
            raise
        return fd

    def is_current(self, name: str, fd: int) -> bool:
        try:
            return is_named(None, self._path / name, fd)
        except OSError:
            return False

    def remove(self, name: str) -> None:
        try:
            os.unlink(self._path / name)
            self._sweep()
        except OSError:
            pass  # gone already, or to be written over by the next one

    def _sweep(self) -> None:
        """Remove what processes left that were killed a day ago."""
        for entry in os.scandir(self._path):
            if time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED:
                fd = self.open(entry.name)
                try:
                    if try_lock(fd):
                        os.unlink(self._path / entry.name)
                finally:
                    os.close(fd)


class FlightsInMemory:
    """The flights of the calls of one broker."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._lock = threading.Lock()
        tell_in_child(self)

    def in_child(self) -> None:
        """The parent's transfers are not this process's."""
        for fd in self._files.values():
            close(fd)
        self._files, self._lock = {}, threading.Lock()

    def open(self, name: str) -> int:
        """:raises OSError: no descriptor is left."""
        with self._lock:
            is_new = name not in self._files
            if is_new:
                self._files[name] = os.memfd_create("imagebroker-flight", os.MFD_CLOEXEC)
            try:
                # Not a duplicate: locks belong to an opening of a file.
                return os.open(f"/proc/self/fd/{self._files[name]}", os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                if is_new:
                    close(self._files.pop(name))
                raise

    def is_current(self, name: str, fd: int) -> bool:
        with self._lock:
            current = self._files.get(name)
            return current is not None and is_same(current, fd)

    def remove(self, name: str) -> None:
        with self._lock:
            close(self._files.pop(name, -1))


@dataclass(frozen=True)
class Announcement:
    """The announcement of a transfer: everything that others need to follow it."""

    #: What proves which bytes these are: see `marks_of`.
    marks: tuple[str, ...]
    size: int
    #: The part file, and what says that it is still the one that was meant.
    part: str
    device: int
    inode: int
    #: What its checks compute.
    algorithms: tuple[str, ...]
    #: How often the transfer began again: what was read before is void then.
    beginning: int = 0
    #: Bytes from the start that lie in the part file without a gap.
    stored: int = 0
    #: "running", "verified" or "failed".
    state: str = "running"
    #: Of the whole, once it is verified.
    digests: Mapping[str, str] | None = None

    @property
    def file(self) -> tuple[int, int]:
        return self.device, self.inode

    def write(self, fd: int) -> None:
        """In one step; what is torn by a reader's bad luck does not have the checksum."""
        line = json.dumps(asdict(self)).encode()
        os.pwrite(fd, b"%08x %08x\n" % (len(line), zlib.crc32(line)) + line, 0)

    @classmethod
    def read(cls, fd: int) -> Announcement | None:
        """None if nothing readable is there."""
        try:
            head, _, rest = os.pread(fd, _ROOM, 0).partition(b"\n")
            length, checksum = (int(part, 16) for part in head.split(b" "))
            line = rest[:length]
            if len(line) != length or zlib.crc32(line) != checksum:
                return None
            found: dict[str, Any] = json.loads(line)
            for name in ("marks", "algorithms"):
                found[name] = tuple(found[name])
            return cls(**found)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None


class Flight:
    """One name under which a transfer is announced: locked by the leader, read by the followers."""

    def __init__(self, flights: Flights, name: str) -> None:
        """:raises ConfigError, OSError: as `Flights.open`."""
        self._flights, self.name = flights, name
        self._process = Process()
        self._fd = withhold(flights.open(name))
        #: What its leader has announced last.
        self.announced: Announcement | None = None
        self._held = False
        self._head = b""
        self._last: Announcement | None = None
        #: True while another call's transfer is followed here: the follower closes it.
        self.is_followed = False

    def lock(self) -> bool | None:
        """True: it is ours now. False: somebody has it. None: the name was given up, open it anew.

        :raises OSError: it cannot be locked or examined; it is removed.
        """
        try:
            if not try_lock(self._fd):
                return False
            if not self._flights.is_current(self.name, self._fd):
                unlock(self._fd)
                return None
            os.ftruncate(self._fd, 0)  # of one who died
        except OSError:
            self._flights.remove(self.name)  # without locks it is useless
            raise
        self._held = True
        return True

    @property
    def is_abandoned(self) -> bool:
        """Whether its leader is gone. Do not call it on a flight of this call."""
        if not try_lock(self._fd, shared=True):
            return False
        unlock(self._fd)
        return True

    @property
    def silent_for(self) -> float:
        """Seconds since anything was announced here."""
        return time() - os.fstat(self._fd).st_mtime

    def read(self) -> Announcement | None:
        head = os.pread(self._fd, _HEAD, 0)
        if head != self._head:  # its checksum is in it: nothing else is new either
            self._head, self._last = head, Announcement.read(self._fd)
        if self._last is None:
            self._head = b""
        return self._last

    def announce(self, announcement: Announcement) -> None:
        announcement.write(self._fd)
        self.announced = announcement

    def update(self, **changes: Any) -> None:
        """Nothing, if nothing was announced. :raises OSError: no room."""
        if self.announced is not None and self._process.is_current:
            self.announce(replace(self.announced, **changes))

    def close(self) -> None:
        """Release it; the leader removes it first."""
        if self._fd < 0:
            return
        if self._held and self._process.is_current:
            self._flights.remove(self.name)
            try:
                unlock(self._fd)  # the child of a fork may still have it open
            except OSError:
                pass  # no locks here
        close(self._fd)
        self._fd = -1
