"""A cache of verified images in a directory of this user's own.

Who may have an entry is decided elsewhere (`entitlement.py`): it is found by the keys under which
it was stored, never by its digest alone.

An entry is a file called `<algorithm>-<digest>`. It is completed under another name and then
renamed, but readers do not rely on that: each one computes the digest of what it copied from the
entry. A lock (flock) shows that an entry is in use, or that its writer is alive. An entry counts
with its full size while it is being written: the directory never exceeds its limit.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep, time_ns
from typing import Any

from imagebroker.backends.backend import Buffer, ImageSource
from imagebroker.backends.opened_source import OpenedSource
from imagebroker.exceptions import DestinationError, ImageChanged, TransferError
from imagebroker.model.algorithms import STRONG
from imagebroker.model.image import Image
from imagebroker.system.files import is_named, try_lock, write_all
from imagebroker.system.forks import close, release, withhold
from imagebroker.system.owned_directory import open_owned
from imagebroker.transfer.fetch.candidates import Candidate, Waiting
from imagebroker.transfer.layers import labels
from imagebroker.transfer.store.kernel_copy import copy_range, data_ranges, reflink
from imagebroker.verify.checksum import DEFAULT, Checksum

LOG = logging.getLogger(__name__)

_ENTRY = re.compile(r"(?P<algorithm>[a-z0-9_]+)-(?P<digest>[0-9a-f]{64,128})")
#: Which content a key leads to, in a link without any target but that name.
_NOTE = re.compile(r"version-[0-9a-f]{64}")
_COMING = re.compile(r"coming-[0-9a-f]{16}")
_LOCK = "lock"
_CHUNK = 1024 * 1024
_STEP = 64 * _CHUNK
#: Seconds that others may take to make room.
_TIMEOUT = 10.0


@dataclass(frozen=True)
class Cached:
    """One image in the cache."""

    algorithm: str
    digest: str
    #: Bytes.
    size: int
    used_at: datetime
    #: What was downloaded with these bytes: refs without their query, and the records' names.
    refs: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.algorithm}-{self.digest}"

    @property
    def checksum(self) -> str:
        """As `checksum=` takes it."""
        return f"{self.algorithm}:{self.digest}"


class Entry:
    """An entry in use: it is not removed until it is closed."""

    def __init__(self, fd: int, cached: Cached) -> None:
        self.fd, self.cached = fd, cached

    def candidate(self, ref: str, image: Image) -> Candidate:
        """The entry as a source of the bytes of `image`."""

        def opened(start: int, left: float, waiting: Waiting) -> OpenedSource:
            return OpenedSource(_EntrySource(self, image), lambda verb: nullcontext())

        return Candidate(ref, opened, private=True)

    @property
    def checksum(self) -> Checksum:
        """The checksum that a copy of it must have."""
        return Checksum(self.cached.algorithm, self.cached.digest, "the cached image")

    def is_intact(self) -> bool:
        """Whether it has the digest that it is called after. Reads all of it."""
        hasher = hashlib.new(self.cached.algorithm)
        position = 0
        try:
            while chunk := os.pread(self.fd, _CHUNK, position):
                hasher.update(chunk)
                position += len(chunk)
        except OSError:
            return False
        return hasher.hexdigest() == self.cached.digest

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        close(fd)

    def __enter__(self) -> Entry:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _EntrySource(ImageSource):
    """An entry, which the core copies as it copies any local file."""

    seekable = True

    def __init__(self, entry: Entry, image: Image) -> None:
        self._fd = entry.fd
        self.image = replace(image, size=entry.cached.size)
        self.local_path = Path(f"/proc/self/fd/{entry.fd}")

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        end = self.image.size or 0 if stop is None else stop
        while start < end:
            try:
                chunk = os.pread(self._fd, min(_CHUNK, end - start), start)
            except OSError as error:
                raise TransferError(
                    f"the cached image cannot be read: {error.strerror}", retryable=False
                ) from error
            if not chunk:
                raise ImageChanged("the cached image was cut")
            yield chunk
            start += len(chunk)


class Cache:
    """Used by several threads and processes at once."""

    def __init__(self, path: Path, limit: int) -> None:
        """`limit`: bytes that the directory may hold."""
        self.path, self.limit = path, limit

    @contextmanager
    def _directory(self) -> Iterator[int]:
        """:raises ConfigError: it is not this user's own. :raises OSError: it cannot be used."""
        fd = withhold(open_owned(self.path, "[imagebroker] cache_dir"))
        try:
            yield fd
        finally:
            release(fd)

    # -- looking ---------------------------------------------------------------------------------

    def entries(self) -> list[Cached]:
        """The entries, the last used first.

        :raises DestinationError: the directory cannot be read.
        """
        try:
            with self._directory() as directory:
                found = [self._cached(directory, name) for name in os.listdir(directory)]
        except OSError as error:
            raise DestinationError.wrap(error, f"cannot read the cache {self.path}") from error
        return sorted(filter(None, found), key=lambda each: each.used_at, reverse=True)

    def _cached(self, directory: int, name: str) -> Cached | None:
        match = _ENTRY.fullmatch(name)
        if match is None or STRONG.get(match["algorithm"]) != len(match["digest"]):
            return None
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        used = datetime.fromtimestamp(found.st_atime, UTC)
        refs, names = labels.read(directory, name)
        return Cached(match["algorithm"], match["digest"], found.st_size, used, refs, names)

    def is_empty(self) -> bool:
        """:raises ConfigError, OSError: as the directory."""
        with self._directory() as directory:
            return not any(_ENTRY.fullmatch(name) for name in os.listdir(directory))

    def find(self, keys: Iterable[str]) -> Entry | None:
        """An entry that was stored under one of these keys; in use now.

        :raises ConfigError, OSError: as the directory.
        """
        with self._directory() as directory:
            for key in keys:
                name = ""
                with suppress(OSError):
                    name = os.readlink(_note(key), dir_fd=directory)
                entry = self._use(directory, name)
                if entry is not None:
                    # Not the time of change: somebody may be copying, and looks at it.
                    changed = os.fstat(entry.fd).st_mtime_ns
                    os.utime(entry.fd, ns=(time_ns(), changed))
                    return entry
        return None

    def _use(self, directory: int, name: str) -> Entry | None:
        if self._cached(directory, name) is None:
            return None
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = withhold(os.open(name, flags, dir_fd=directory))
        except FileNotFoundError:
            return None
        try:
            if try_lock(fd, shared=True):  # else it is being removed
                cached = self._cached(directory, name)
                if cached is not None and is_named(directory, name, fd):
                    return Entry(fd, cached)
        except BaseException:
            close(fd)
            raise
        close(fd)
        return None

    # -- storing ---------------------------------------------------------------------------------

    def store(
        self,
        fd: int,
        size: int,
        digests: Mapping[str, Any],
        keys: Sequence[str],
        image: Image | None = None,
    ) -> bool:
        """Keep the first `size` bytes of an open file; whether there is room for them.

        `digests`: their computed digests, by algorithm. `keys`: the keys that lead to them.
        `image`: their record, for listing the cache.

        :raises ConfigError, OSError: as the directory.
        """

        def copy(target: int) -> Mapping[str, Any]:
            _copy(fd, target, size)
            return digests

        return self._store(size, digests, copy, keys, image) is not None

    def store_chunks(
        self,
        chunks: Iterable[Buffer],
        size: int,
        digests: Callable[[], Mapping[str, Any]],
        keys: Sequence[str],
        image: Image | None = None,
    ) -> str | None:
        """The same with bytes that come one after the other; `digests` is asked at their end.

        Returns the name of the entry; None if there is no room.
        """

        def copy(target: int) -> Mapping[str, Any]:
            position = 0
            for chunk in chunks:
                write_all(target, memoryview(chunk), position)
                position += len(chunk)
            if position != size:
                raise ImageChanged(f"{position} bytes came instead of {size}")
            return digests()

        return self._store(size, {}, copy, keys, image)

    def _store(
        self,
        size: int,
        digests: Mapping[str, Any],
        copy: Callable[[int], Mapping[str, Any]],
        keys: Sequence[str],
        image: Image | None,
    ) -> str | None:
        with self._directory() as directory:
            name = self._there(directory, digests)
            if name is not None:
                self._note(directory, keys, name)
                labels.add(directory, name, image)
                return name
            coming = self._begin(directory, size)
            if coming is None:
                return None
            temporary, fd = coming
            try:
                found = copy(fd)
                if not _names(found):
                    return None
                if DEFAULT not in found:  # one content has one name, whatever was computed of it
                    found = {**found, DEFAULT: _digest(fd, size)}
                name = self._there(directory, found)
                if name is None:
                    name = _names(found)[0]
                    with self._alone(directory):  # who adds up what there is must not miss it
                        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
                    temporary = ""
                self._note(directory, keys, name)
                labels.add(directory, name, image)
                return name
            finally:
                if temporary:
                    with suppress(OSError):
                        os.unlink(temporary, dir_fd=directory)
                release(fd)

    def _there(self, directory: int, digests: Mapping[str, Any]) -> str | None:
        """The entry with one of these digests."""
        found = (name for name in _names(digests) if self._cached(directory, name) is not None)
        return next(found, None)

    def _begin(self, directory: int, size: int) -> tuple[str, int] | None:
        """A new file of that size, locked; None if there is no room."""
        with self._alone(directory):
            if not self._make_room(directory, size):
                return None
            name = f"coming-{secrets.token_hex(8)}"
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = withhold(os.open(name, flags, 0o600, dir_fd=directory))
            try:
                try_lock(fd, shared=True)
                os.ftruncate(fd, size)  # from now on it counts
            except BaseException:
                release(fd)
                os.unlink(name, dir_fd=directory)
                raise
            return name, fd

    @contextmanager
    def _alone(self, directory: int) -> Iterator[None]:
        """Nobody else makes room. :raises OSError: others take too long."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = withhold(os.open(_LOCK, flags, 0o600, dir_fd=directory))
        ends = monotonic() + _TIMEOUT
        try:
            while not try_lock(fd):
                if monotonic() > ends:
                    raise OSError(errno.EAGAIN, "others are making room in it")
                sleep(0.01)
            yield
        finally:
            release(fd)

    def _make_room(self, directory: int, size: int) -> bool:
        """Remove the least recently used entries, and those whose writer is gone."""
        if size > self.limit:
            return False
        self._sweep(directory)
        total, old = 0, []
        for name in os.listdir(directory):
            found = _status(directory, name)
            if found is not None and stat.S_ISREG(found.st_mode):
                total += found.st_size
                if _ENTRY.fullmatch(name):
                    old.append((found.st_atime_ns, name, found.st_size))
        for _, name, freed in sorted(old):
            if total + size <= self.limit:
                break
            if self._remove(directory, name):
                total -= freed
        return total + size <= self.limit

    def _remove(self, directory: int, name: str) -> bool:
        """Unless it is in use."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = withhold(os.open(name, flags, dir_fd=directory))
        except OSError:
            return False
        try:
            if try_lock(fd) and is_named(directory, name, fd):
                os.unlink(name, dir_fd=directory)
                return True
        except OSError:
            pass  # unreadable, or locked
        finally:
            release(fd)
        return False

    def _note(self, directory: int, keys: Sequence[str], name: str) -> None:
        """Let each key lead to this entry."""
        for note in map(_note, keys):
            with suppress(OSError):
                if os.readlink(note, dir_fd=directory) == name:
                    continue
            with suppress(OSError):
                os.unlink(note, dir_fd=directory)
            with suppress(OSError):
                os.symlink(name, note, dir_fd=directory)

    # -- maintenance -----------------------------------------------------------------------------

    def drop(self, entry: Entry) -> None:
        """Remove an entry that is damaged, though it is in use by this caller."""
        entry.close()
        with suppress(OSError), self._directory() as directory:
            self._remove(directory, entry.cached.name)

    def verify(self) -> Iterator[tuple[Cached, bool]]:
        """Every entry, and whether it is intact. One that is not is removed.

        :raises DestinationError: the directory cannot be read.
        """
        for cached in self.entries():
            with self._directory() as directory:
                entry = self._use(directory, cached.name)
            if entry is None:
                continue
            with entry:
                intact = entry.is_intact()
                if not intact:
                    self.drop(entry)
            yield cached, intact

    def prune(self, limit: int | None = None, unused_since: datetime | None = None) -> list[Cached]:
        """Remove entries until at most `limit` bytes are there, and what was not used since; what
        went. Those in use stay, and so does what is being stored.

        :raises DestinationError: the directory cannot be used.
        """
        limit = self.limit if limit is None else limit
        gone = []
        entries = self.entries()
        try:
            with self._directory() as directory, self._alone(directory):
                total = sum(cached.size for cached in entries)
                for cached in reversed(entries):
                    old = unused_since is not None and cached.used_at < unused_since
                    if (old or total > limit) and self._remove(directory, cached.name):
                        total -= cached.size
                        gone.append(cached)
                self._sweep(directory)
        except OSError as error:
            raise DestinationError.wrap(error, f"cannot use the cache {self.path}") from error
        return gone

    def _sweep(self, directory: int) -> None:
        """Remove unfinished entries of dead processes, and notes about removed entries."""
        for name in os.listdir(directory):
            if _COMING.fullmatch(name):
                self._remove(directory, name)
            elif _NOTE.fullmatch(name):
                with suppress(OSError):
                    if _status(directory, os.readlink(name, dir_fd=directory)) is None:
                        os.unlink(name, dir_fd=directory)


def _names(digests: Mapping[str, Any]) -> list[str]:
    """The possible names of an entry with these digests, the usual one first."""
    order = [DEFAULT, *(name for name in STRONG if name != DEFAULT)]
    return [f"{name}-{digests[name]}" for name in order if isinstance(digests.get(name), str)]


def _digest(fd: int, size: int) -> str:
    hasher, position = hashlib.new(DEFAULT), 0
    while position < size and (chunk := os.pread(fd, _CHUNK, position)):
        hasher.update(chunk)
        position += len(chunk)
    return hasher.hexdigest()


def _note(key: str) -> str:
    return f"version-{hashlib.sha256(key.encode()).hexdigest()}"


def _status(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _copy(source: int, target: int, size: int) -> None:
    """The bytes and holes of one file into another, inside the kernel where that can be."""
    if reflink(source, target):
        return
    for start, stop in data_ranges(source, size):
        _copy_data(source, target, start, stop)


def _copy_data(source: int, target: int, start: int, stop: int) -> None:
    in_kernel = True
    while start < stop:
        done = copy_range(source, target, start, min(stop - start, _STEP)) if in_kernel else None
        if done is None:
            in_kernel = False
            done = os.pwrite(target, os.pread(source, min(stop - start, _CHUNK), start), start)
        if not done:
            raise OSError(errno.EIO, "the file was cut while it was copied")
        start += done
