"""Direct I/O: writes that bypass the page cache, in order and in large blocks.

A transfer that ends on the disk gains nothing from the cache: each byte is copied into it, pages
are found for it, and all of it is written out before the end anyway. Past it (O_DIRECT) the same
bytes cost a tenth of the processor's time, and push nothing out of the cache that others use.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections import deque
from time import monotonic
from typing import NamedTuple

from imagebroker.system.files import write_all
from imagebroker.system.forks import release, tell_in_child, withhold
from imagebroker.system.worker import Worker
from imagebroker.transfer.store.file_systems import EXT4, XFS, kind_of

#: Bytes that go to the disk at once, and how many such blocks there are: while one is written,
#: the next is gathered.
_BLOCK, _BLOCKS = 2 * 1024 * 1024, 3
#: Less than this is quicker through the cache.
_WORTH_IT = 256 * 1024
#: Over how many bytes their pace is measured.
_PACE_OVER = 4 * 1024 * 1024
#: What others promise about O_DIRECT is less, or it costs more there.
_FILE_SYSTEMS = (EXT4, XFS)
#: What says that this file system or disk cannot do it after all.
_CANNOT = (errno.EINVAL, errno.EOPNOTSUPP)


class DirectIO(NamedTuple):
    """When writes go past the page cache, and what the disk must be given."""

    #: Bytes a second from which on it pays; 0: from the first byte on. What comes slower is in the
    #: file at once: others may wait for it.
    pace: float = 32 * 1024 * 1024
    #: Where and how long such a write must be: a multiple of the sector of any disk in use.
    aligned: int = 4096


class _Block:
    """Gathered bytes, and where in the file they belong."""

    def __init__(self, aligned: int) -> None:
        self._memory = memoryview(mmap.mmap(-1, _BLOCK))  # begins at a page
        self._aligned = aligned
        self.begin(0)

    def begin(self, start: int) -> None:
        self.start, self.count = start, 0
        # Bytes lie in memory as they will on the disk.
        self._base = start % self._aligned

    @property
    def end(self) -> int:
        return self.start + self.count

    @property
    def room(self) -> int:
        """Bytes that it still takes: wherever it begins, it ends where blocks of the file do."""
        return _BLOCK - self._base - self.count

    @property
    def bytes(self) -> memoryview:
        return self._memory[self._base : self._base + self.count]

    def add(self, view: memoryview) -> None:
        begin, size = self._base + self.count, len(view)
        end = begin + size
        self._memory[begin:end] = view  # in one step, so that `leave` never comes in between
        self.count += size

    def leave(self) -> None:
        """Continue in its own memory."""
        self._memory = memoryview(bytearray(_BLOCK))


class DirectWriter:
    """Takes what is written one after the other; any thread may `flush` meanwhile.

    What a write raises, a later call raises.
    """

    def __init__(self, fd: int, direct: int, how: DirectIO = DirectIO()) -> None:  # noqa: B008
        """`fd` and `direct` are the same file, opened without and with O_DIRECT."""
        self._fd, self._direct, self._how = fd, direct, how
        self._blocks: list[_Block] = []
        self._free: deque[_Block] = deque()
        self._gathered: _Block | None = None
        self._writer = Worker(self._store, "imagebroker-write", done=self._free.append)
        self._changed = self._writer.changed
        self._fast, self._seen, self._since = not how.pace, 0, monotonic()
        tell_in_child(self)

    def in_child(self) -> None:
        """What is gathered lies in memory that both processes have: the child gets its own."""
        for block in self._blocks:
            block.leave()

    @classmethod
    def beside(cls, fd: int, directory: int, name: bytes, how: DirectIO) -> DirectWriter | None:
        """A writer into the file `fd`, `name` in `directory`; None without direct I/O."""
        if kind_of(fd) not in _FILE_SYSTEMS:
            return None
        flags = os.O_WRONLY | os.O_DIRECT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            direct = os.open(name, flags, dir_fd=directory)
        except OSError:
            return None
        try:
            if os.path.sameopenfile(fd, direct):
                return cls(fd, withhold(direct), how)
        except OSError:
            pass  # unknown: as if it were another file
        os.close(direct)
        return None

    def write(self, offset: int, view: memoryview) -> None:
        """:raises OSError: these bytes, or earlier ones, cannot be written."""
        if not self._is_worth_it(len(view)):
            self.flush()
            write_all(self._fd, view, offset)
            return
        while view:
            with self._changed:
                block = self._block(offset)
                room = min(block.room, len(view))
                block.add(view[:room])
                offset, view = offset + room, view[room:]
                if not block.room:
                    self._hand_over()

    def _is_worth_it(self, size: int) -> bool:
        """Whether bytes come fast; `size` more have come."""
        self._seen += size
        if self._seen >= _PACE_OVER:
            now = monotonic()
            self._fast = self._seen > self._how.pace * (now - self._since)
            self._seen, self._since = 0, now
        return self._fast

    def _block(self, offset: int) -> _Block:
        """Where bytes for `offset` are gathered."""
        if self._gathered is not None and self._gathered.end != offset:
            self._hand_over()
        if self._gathered is None:
            writer = self._writer
            while not self._free and len(self._blocks) == _BLOCKS and writer.failed is None:
                self._changed.wait()
            writer.check()
            if not self._free:
                self._blocks.append(_Block(self._how.aligned))
                self._free.append(self._blocks[-1])
            self._gathered = self._free.popleft()
            self._gathered.begin(offset)
        return self._gathered

    def _hand_over(self) -> None:
        block, self._gathered = self._gathered, None
        if block is not None:
            self._writer.add(block)

    def _store(self, block: _Block) -> None:
        """Whole sectors go past the cache, what comes before and after them through it."""
        start, view, aligned = block.start, block.bytes, self._how.aligned
        head = -start % aligned
        whole = (len(view) - head) // aligned * aligned
        if whole >= _WORTH_IT and self._direct >= 0:
            write_all(self._fd, view[:head], start)
            start, view = start + head, view[head:]
            try:
                written = os.pwrite(self._direct, view[:whole], start)
                start, view = start + written, view[written:]
            except OSError as error:
                if error.errno not in _CANNOT:
                    raise
                self._end_direct()
        write_all(self._fd, view, start)

    def flush(self) -> None:
        """Let the file have all that was taken. :raises OSError: it cannot be written."""
        if self._blocks:  # else nothing was ever gathered
            with self._changed:
                self._hand_over()
                self._writer.wait()

    def holds(self, start: int, stop: int) -> bool:
        """Whether bytes between these have not reached the file."""
        return any(block.start < stop and start < block.end for block in self._pending())

    def in_file(self, position: int) -> int:
        """How far, up to `position`, nothing is missing in the file that was taken."""
        if not self._blocks:  # nothing was ever gathered
            return position
        return min([position, *(block.start for block in self._pending())])

    def _pending(self) -> list[_Block]:
        with self._changed:
            gathered = [] if self._gathered is None else [self._gathered]
            return self._writer.pending() + gathered

    def drop(self) -> None:
        """Forget what was taken and not written, and what failed."""
        with self._changed:
            if self._gathered is not None:
                self._free.append(self._gathered)
                self._gathered = None
            self._writer.drop()

    def close(self) -> None:
        """Let go; what was not flushed is lost."""
        self._writer.close()
        self._end_direct()

    def _end_direct(self) -> None:
        fd, self._direct = self._direct, -1
        if fd >= 0:
            release(fd)
