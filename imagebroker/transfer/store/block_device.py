"""A block device as destination: unmounted, unused, large enough, and never bootable unverified.

The first MiB, which holds the partition table or the boot sector, is blank until everything else
was read back from the device and has the digest that was verified. Runs of zeros are not written:
the device is told to hold zeros there (fallocate(2), Linux 4.9), where it can.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from imagebroker.backends.backend import Buffer
from imagebroker.exceptions import DestinationError
from imagebroker.model.algorithms import STRONG, WEAK
from imagebroker.redaction import redact
from imagebroker.system.files import write_all
from imagebroker.system.forks import Process, close, withhold
from imagebroker.transfer.ranges import Extents, Range, gaps
from imagebroker.transfer.store.device_journal import DeviceJournal
from imagebroker.transfer.store.direct import DirectWriter
from imagebroker.transfer.store.fallocate import PUNCH_HOLE, ZERO_RANGE, fallocate
from imagebroker.transfer.store.file_systems import UNSUPPORTED
from imagebroker.transfer.store.journal import Journal
from imagebroker.transfer.store.midstates import Midstates
from imagebroker.transfer.store.part_file import INTERRUPTED
from imagebroker.transfer.store.sparse import filled
from imagebroker.verify.checksum import new_hash

#: Bytes at the beginning that are written last: longer than any boot sector, partition table, or
#: superblock that a host looks for.
HEAD = 1024 * 1024
#: Zeros are left to the device in multiples of this, which is one of any sector's size.
_ALIGNED = 4096
#: Bytes that are read back at once.
_STEP = 1024 * 1024
_ZEROS = bytes(_STEP)
#: Of a device that is large enough, and has fewer blocks than it says.
_POOL_IS_FULL = "extend the pool that the device is in (lvs shows it), or choose another device"
#: ioctl: whether the device is read-only (linux/fs.h).
_BLKROGET = 0x125E


class BlockDevice:
    """An open device in exclusive use until `discard`."""

    #: The kernel cannot copy a file into a device.
    file = None

    def __init__(
        self,
        path: str | bytes | os.PathLike[Any],
        *,
        journal: DeviceJournal | None = None,
        keep: bool = False,
        fits: Callable[[Journal], bool] = lambda kept: False,
    ) -> None:
        """Open it; nothing is written yet.

        `journal`: where processes tell later ones what these can go on with; `keep`: this one does
        so. `fits`: whether what an earlier one left may be of the same image.

        :raises DestinationError: it is not a block device, is in use (mounted, swap, part of a
            volume group or array), or is read-only.
        """
        self.path = os.fsencode(path)
        self.shown = redact(os.fsdecode(self.path).encode("utf-8", "backslashreplace").decode())
        self._process = Process()
        self._journal, self._keep, self._noted = journal, keep, False
        self.size = 0
        self.kept: Journal | None = None
        self._fd = -1
        self._direct: DirectWriter | None = None
        self._frontier: int | None = None
        self._head = bytearray(HEAD)
        # Whether the head was blanked, and whether zeros lie wherever nothing was written.
        self._begun = self._zeroed = False
        # What was stored beyond the head, as far as it is known.
        self._written = Extents()
        self._stored, self._resumes = 0, False
        self._hashes: dict[str, Midstates] = {}
        try:
            self._fd = withhold(self._opened(os.O_RDWR | os.O_EXCL))
            self._check()
            with self._raising("cannot look at"):
                self._length = os.lseek(self._fd, 0, os.SEEK_END)
            self._direct = DirectWriter(self._fd, withhold(self._opened(os.O_WRONLY | os.O_DIRECT)))
            self._take_up(fits)
        except BaseException:
            self.discard()
            raise

    def _opened(self, flags: int) -> int:
        try:
            found = os.stat(self.path)
            if not stat.S_ISBLK(found.st_mode):
                raise DestinationError(
                    f"{self.shown!r} is not a block device",
                    hint="name a device such as /dev/VG/LV, or omit --to-device to write a file",
                )
            return os.open(self.path, flags | os.O_CLOEXEC)
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> DestinationError:
        if error.errno == errno.EBUSY:
            return DestinationError(
                f"{self.shown!r} is in use: mounted, or part of something that is",
                hint=f"see what uses it: lsblk {self.shown}",
                errno=error.errno,
            )
        hint = None
        if error.errno in (errno.EACCES, errno.EPERM):
            hint = "run this as root, or as a member of the device's group (usually disk)"
        elif error.errno == errno.ENOENT:
            hint = "check the name: ls -l /dev/disk/by-id /dev/mapper"
        return DestinationError.wrap(error, f"cannot open {self.shown!r}", hint=hint)

    def _check(self) -> None:
        answer = fcntl.ioctl(self._fd, _BLKROGET, bytes(4))
        if answer != bytes(4):
            error = OSError(errno.EROFS, os.strerror(errno.EROFS))
            raise DestinationError.wrap(
                error, f"cannot write {self.shown!r}", hint="choose a device that is writable"
            )

    def _take_up(self, fits: Callable[[Journal], bool]) -> None:
        found = None if self._journal is None else self._journal.read()
        if found is None:
            return
        kept, head = found
        if fits(kept) and kept.end <= self._length:
            self.kept, self._head = kept, bytearray(head)
            self.size = kept.end
            self._stored, self._resumes = kept.covered, kept.resumes

    # -- what a download does with it -------------------------------------------------------------

    def new_hash(self, algorithm: str) -> Midstates:
        """A hash that will be fed all that is stored, in order: `commit` holds what it reads back
        to the last one of that algorithm."""
        self._hashes[algorithm] = Midstates(new_hash(algorithm))
        return self._hashes[algorithm]

    @property
    def keeps(self) -> bool:
        """Whether `note` is of any use."""
        return self._keep and self._journal is not None and self._process.is_current

    def reserve(self, size: int) -> None:
        """:raises DestinationError: the device has fewer than `size` bytes."""
        if size > self._length:
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise DestinationError.wrap(
                error,
                f"{self.shown!r} has {self._length} bytes, and the image has {size}",
                hint="choose a larger device",
            )

    def preallocate(self, size: int) -> None:
        """Blank the first MiB, and have zeros in all of it, if the device can do that by itself.

        :raises DestinationError: the device is too small.
        """
        self.reserve(size)
        if not self._begun:
            self._begin()
            self._zeroed = size > HEAD and self._leave_zeros([(HEAD, size)])

    def clear(self, missing: Sequence[Range]) -> None:
        """An earlier process stored everything but these ranges."""
        self._begin()
        self._written = Extents(gaps(missing, self.size))
        bounded = all(stop <= self._length for _, stop in missing)
        self._zeroed = bounded and self._leave_zeros([(max(a, HEAD), b) for a, b in missing])

    def _begin(self) -> None:
        """From here on the device holds no image that could be taken for one."""
        self._begun = True
        blank = memoryview(bytes(min(HEAD, self._length)))
        with self._raising("cannot write"):
            write_all(self._fd, blank, 0)
        with self._raising("cannot sync"):
            os.fsync(self._fd)

    def _leave_zeros(self, ranges: Sequence[Range]) -> bool:
        """Have the device itself hold zeros in these ranges; False if it cannot."""
        return all(self._zero(start, stop, PUNCH_HOLE) for start, stop in ranges if start < stop)

    def _zero(self, start: int, stop: int, how: int) -> bool:
        """Zeros there without sending any, but for what is not a whole sector."""
        first, last = -(-start // _ALIGNED) * _ALIGNED, stop // _ALIGNED * _ALIGNED
        if first < last:
            code = fallocate(self._fd, how, first, last - first)
            if code in UNSUPPORTED:
                return False
            if code:
                error = OSError(code, os.strerror(code))
                raise DestinationError.wrap(error, f"cannot write {self.shown!r}")
        else:
            first = last = stop
        for begin, end in ((start, first), (last, stop)):
            if begin < end:
                zeros = memoryview(bytes(end - begin))
                with self._raising("cannot write"):
                    write_all(self._fd, zeros, begin)
        return True

    def write(self, offset: int, chunk: Buffer) -> None:
        """Store `chunk` at `offset`. :raises DestinationError: as named."""
        self._process.check(f"the download to {self.shown!r}")
        view = memoryview(chunk)
        self.reserve(offset + len(view))
        if not self._begun:
            self._begin()
        self.size = max(self.size, offset + len(view))
        if offset < HEAD:
            part = view[: HEAD - offset]
            self._head[offset : offset + len(part)] = part
            offset, view = offset + len(part), view[len(part) :]
        direct = self._direct
        if not view or direct is None:
            return
        runs = filled(view, offset)
        if not self._zeroed:
            for start, stop in gaps(runs, len(view)):
                if not self._zero(offset + start, offset + stop, ZERO_RANGE):
                    runs = [(0, len(view))]
                    break
        for start, stop in runs:
            self._written.add(offset + start, offset + stop)
            piece = view[start:stop]
            with self._raising("cannot write"):
                if self._frontier in (None, offset):
                    direct.write(offset + start, piece)
                else:
                    write_all(self._fd, piece, offset + start)
        if self._frontier in (None, offset):
            self._frontier = offset + len(view)

    def append(self, chunk: Buffer) -> None:
        """Store `chunk` after the last one. :raises DestinationError: as named."""
        self.write(self.size, chunk)

    def in_file(self, position: int) -> int:
        """How far, up to `position`, all bytes have left this process, but for the first MiB."""
        return position if self._direct is None else self._direct.in_file(position)

    def flush(self) -> None:
        """Let the device have all but the first MiB."""
        if self._direct is not None:
            with self._raising("cannot write"):
                self._direct.flush()

    def read_back(self, start: int, stop: int) -> Iterator[Buffer]:
        """The bytes from `start` to `stop`, in order, a MiB at a time. Where zeros were left to the
        device, nothing is read."""
        if self._direct is not None and self._direct.holds(start, stop):
            self.flush()
        if start < HEAD:
            yield bytes(self._head[start : min(stop, HEAD)])
            start = HEAD
        holes = self._written.gaps(start, stop) if self._zeroed else []
        for begin, end in (*holes, (stop, stop)):
            while start < begin:
                chunk = self._read(start, min(_STEP, begin - start))
                yield chunk
                start += len(chunk)
            while start < end:
                zeros = memoryview(_ZEROS)[: end - start]
                yield zeros
                start += len(zeros)

    def _read(self, start: int, size: int) -> bytes:
        with self._raising("cannot read back"):
            chunk = os.pread(self._fd, size, start)
        if not chunk:
            raise DestinationError(f"{self.shown!r} ends at {start}", errno=errno.EIO)
        return chunk

    def note(self, journal: Journal) -> None:
        """Record what a later process can resume. Nothing is written unless parts are kept."""
        if self._journal is None or not self._keep or not journal.proves:
            return
        self._process.check(f"the download to {self.shown!r}")
        self.flush()
        if self._journal.write(journal, self._head):
            self._noted = True
            self._stored, self._resumes = journal.covered, journal.resumes
        else:
            self._keep = False  # a transfer that cannot be resumed is still a transfer

    def forget(self) -> None:
        """Nobody can go on with what is stored."""
        if self._journal is not None:
            self._journal.remove()
        self._noted, self.kept = False, None

    def rewind(self) -> None:
        """Forget what was stored: the transfer begins again."""
        self._process.check(f"the download to {self.shown!r}")
        if self._direct is not None:
            self._direct.drop()
        self._head = bytearray(HEAD)
        self._begun = self._zeroed = False
        self._written, self._frontier, self.size = Extents(), None, 0
        self.forget()

    # -- the end ---------------------------------------------------------------------------------

    def commit(self, evidence: Mapping[str, Any], waiting: Callable[[], object]) -> None:
        """Read everything back, hold it to the digest, and write the first MiB.

        `evidence`: the digests that were verified. `waiting` is called after each MiB.

        :raises DestinationError: the device gave back other bytes; its first MiB is blank.
        """
        self._process.check(f"the download to {self.shown!r}")
        algorithm = next(name for name in (*STRONG, *WEAK) if name in evidence)
        self._settle()
        hashed = self._hashes[algorithm]

        def read(start: int, stop: int) -> Iterator[Buffer]:
            for chunk in self.read_back(start, stop):
                yield chunk
                waiting()

        if hashed.hexdigest() != evidence[algorithm] or not hashed.matches(read):
            self.forget()
            raise self._other_bytes()
        head = memoryview(self._head)[: min(HEAD, self.size)]
        with self._raising("cannot write"):
            write_all(self._fd, head, 0)
        self._settle()
        if self._read(0, len(head) or 1)[: len(head)] != head:
            self._begin()
            self.forget()
            raise self._other_bytes()
        self.forget()

    def _other_bytes(self) -> DestinationError:
        return DestinationError(
            f"{self.shown!r} returned different bytes than were written to it",
            hint="the device is damaged, or something else writes to it: see dmesg",
            errno=errno.EIO,
        )

    def _settle(self) -> None:
        """Everything is on the device, and what is read now comes from there."""
        self.flush()
        with self._raising("cannot sync"):
            os.fsync(self._fd)
        with self._raising("cannot read back"):
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    @contextmanager
    def _raising(self, what: str) -> Iterator[None]:
        """Turns an OSError into a DestinationError that says `what` went wrong."""
        try:
            yield
        except OSError as error:
            hint = _POOL_IS_FULL if error.errno == errno.ENOSPC else None
            raise DestinationError.wrap(error, f"{what} {self.shown!r}", hint=hint) from error

    def discard(self, error: BaseException | None = None) -> None:
        """Let go of the device. What was stored waits for a later process where `note` said so and
        the transfer broke or was interrupted."""
        if self._process.is_current:
            proven = self._noted or self.kept is not None
            if proven and isinstance(error, INTERRUPTED):
                if self._resumes:
                    setattr(error, "bytes_kept", self._stored)  # noqa: B010 - it may be Ctrl-C
            elif self._begun:
                self.forget()
            if self._direct is not None:
                self._direct.close()
            if self._journal is not None:
                self._journal.close()
        close(self._fd)
        self._fd = -1

    def __enter__(self) -> BlockDevice:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.discard(error)
