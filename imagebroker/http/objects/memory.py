"""The state of an upload on disk, so that one that was killed can resume.

A file with a lock for each object that is being uploaded: the kernel lets go of the lock of a
process that was killed, and the process that takes it resumes the upload that the file names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from imagebroker.backends.backend import BackendHost
from imagebroker.system import forks
from imagebroker.system.files import try_lock
from imagebroker.system.owned_directory import open_owned
from imagebroker.system.person import own_folder

LOG = logging.getLogger(__name__)
_MAX_SIZE = 64 * 1024


class Begun(NamedTuple):
    """An upload that an earlier call began."""

    upload_id: str
    part_size: int
    metadata: Mapping[str, str]


class Memory:
    """The state of the upload of one object, for a later process; empty without a directory."""

    def __init__(self, fd: int | None = None, path: Path | None = None) -> None:
        self._fd, self._path = fd, path

    def recall(self) -> Begun | None:
        if self._fd is None:
            return None
        try:
            found = json.loads(os.pread(self._fd, _MAX_SIZE, 0) or b"null")
            return Begun(str(found["id"]), int(found["part_size"]), dict(found["metadata"]))
        except (ValueError, TypeError, KeyError, OSError):
            return None

    def keep(self, begun: Begun) -> None:
        self._write(
            json.dumps({
                "id": begun.upload_id, "part_size": begun.part_size,
                "metadata": dict(begun.metadata),
            }).encode()
        )  # fmt: skip

    def forget(self) -> None:
        """The upload is complete, or aborted."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _write(self, content: bytes) -> None:
        if self._fd is None:
            return
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, content, 0)
            os.fsync(self._fd)
        except OSError as error:
            LOG.warning("the upload cannot be remembered in %s: %s", self._path, error.strerror)


@contextmanager
def remembered(host: BackendHost, *where: str) -> Iterator[Memory]:
    """The memory of the upload of an object; an empty one if another process uploads it now."""
    folder = _folder(host)
    fd, path = None, None
    if folder is not None:
        named = json.dumps(where).encode()
        path = folder / f"{hashlib.sha256(named).hexdigest()}.json"
        fd = _locked(folder, path)
    try:
        yield Memory(fd, path) if fd is not None else Memory()
    finally:
        if fd is not None:
            forks.release(fd)


def _folder(host: BackendHost) -> Path | None:
    configured: Any = host.options.state_dir
    if configured:
        return Path(configured)
    own = own_folder("XDG_STATE_HOME", ".local/state") if host.personal else None
    return None if own is None else own / "imagebroker" / host.name


def _locked(folder: Path, path: Path) -> int | None:
    try:
        os.close(open_owned(folder, "state_dir"))
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        LOG.warning("uploads cannot be remembered in %s: %s", folder, error.strerror)
        return None
    try:
        locked = try_lock(fd)
    except OSError:
        locked = False
    if not locked:
        os.close(fd)
        return None
    forks.withhold(fd)
    return fd
