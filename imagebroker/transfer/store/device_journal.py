"""The record from which a later process resumes on a device: the journal, and the first MiB.

Both lie in the state directory, because the device has no room for them, under a name that is made
from the path of the device. Nothing counts before it was read again and has the digest that stands
in the journal: what is on the device may be somebody else's by then.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from imagebroker.system.forks import close
from imagebroker.system.owned_directory import open_owned
from imagebroker.transfer.store import journal as journals
from imagebroker.transfer.store.journal import Journal

#: Where the first MiB begins in the file: the journal is one page.
_HEAD_AT = 4096
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class DeviceJournal:
    """The file for one device."""

    def __init__(self, state_dir: Path, device: str | bytes | os.PathLike[str]) -> None:
        """:raises ConfigError, OSError: the state directory cannot be used."""
        path = os.path.abspath(os.fsencode(device))
        self._name = f"device-{hashlib.sha256(path).hexdigest()[:16]}"
        self._directory = open_owned(state_dir, "[imagebroker] state_dir")
        self._fd = -1
        self._head = b""

    def read(self) -> tuple[Journal, bytes] | None:
        """The journal of an earlier process; None if it is of no use."""
        try:
            fd = os.open(self._name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC,
                         dir_fd=self._directory)  # fmt: skip
        except OSError:
            return None
        try:
            kept = journals.read(fd)
            size = os.fstat(fd).st_size - _HEAD_AT
            head = os.pread(fd, size, _HEAD_AT) if size > 0 else b""
        except OSError:
            return None
        finally:
            close(fd)
        return None if kept is None or not head else (kept, head)

    def write(self, journal: Journal, head: bytes | bytearray) -> bool:
        """Keep it, the first MiB before what says that it is there; False if that cannot be."""
        try:
            if self._fd < 0:
                self._fd = os.open(self._name, _FLAGS, 0o600, dir_fd=self._directory)
            if self._head != head:
                self._head = bytes(head)
                os.pwrite(self._fd, self._head, _HEAD_AT)
            journal.write(self._fd)
        except OSError:
            return False
        return True

    def remove(self) -> None:
        """Nobody can go on."""
        close(self._fd)
        self._fd, self._head = -1, b""
        try:
            os.unlink(self._name, dir_fd=self._directory)
        except OSError:
            pass  # it is not there

    def close(self) -> None:
        """Let go of it."""
        close(self._fd)
        close(self._directory)
        self._fd = self._directory = -1
