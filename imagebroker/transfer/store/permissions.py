"""The permissions of a new file: as requested, those of the file it replaces, or the default."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import NamedTuple

from imagebroker.exceptions import DestinationError

_ACCESS, _DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
#: In an ACL as the kernel hands it out: what comes first, and each entry (tag, permissions, id).
_HEAD, _ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
#: Errors of file systems without permissions (vfat, SMB): the mount determines them.
_HAS_NONE = (errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
_USER, _GROUP, _MASK, _OTHER = 0x01, 0x04, 0x10, 0x20


class Permissions(NamedTuple):
    """The owner, mode and attributes for a file that was created 0600."""

    mode: int
    #: The ACL of the file that is replaced.
    acl: bytes | None = None
    #: Whether the mode is the caller's own choice.
    asked: bool = False
    #: Whether the ACL that the directory gives to new files stays.
    inherits: bool = True

    @classmethod
    def like(cls, directory: int, name: bytes, found: os.stat_result) -> Permissions:
        """The permissions of the file `found` at `name`."""
        acl = _acl(b"/proc/self/fd/%d/%s" % (directory, name), _ACCESS)
        return cls(stat.S_IMODE(found.st_mode) & 0o777, acl, inherits=False)

    @classmethod
    def usual(cls, directory: int) -> Permissions:
        """The permissions of a new file that open(2) creates there with the mode 0666."""
        default = _acl(directory, _DEFAULT)
        # Where there is a default ACL, the kernel does not look at the umask (acl(5)).
        return cls(0o666 & ~umask() if default is None else 0o666 & _mode(default))

    def check(self, fd: int, shown: str) -> None:
        """:raises DestinationError: a mode is asked for, and the file system has none."""
        if self.asked and not _keeps_modes(fd):
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
            raise DestinationError(
                f"the file system of {shown!r} gives each file the same mode, {mode:04o}",
                hint="leave out the mode (file_mode, --file-mode)",
            )

    def apply(self, fd: int) -> None:
        """:raises OSError: it cannot be done, although this file system has permissions."""
        try:
            if self.acl is not None:
                os.setxattr(fd, _ACCESS, self.acl)
                return
            if not self.inherits:
                _remove_acl(fd)
            os.fchmod(fd, self.mode)
        except OSError as error:
            if self.asked or error.errno not in _HAS_NONE:
                raise


def _acl(file: int | bytes, kind: str) -> bytes | None:
    try:
        return os.getxattr(file, kind)
    except OSError:
        return None  # it has none, or the file system knows none


def _remove_acl(fd: int) -> None:
    try:
        os.removexattr(fd, _ACCESS)
    except OSError:
        pass  # it has no ACL


def _mode(acl: bytes) -> int:
    """An ACL as a mode: the mask, where there is one, stands for the group."""
    whole = len(acl) - (len(acl) - _HEAD.size) % _ENTRY.size
    found = {tag: bits & 7 for tag, bits, _ in _ENTRY.iter_unpack(acl[_HEAD.size : whole])}
    group = found.get(_MASK, found.get(_GROUP, 0))
    return int(found.get(_USER, 0) << 6 | group << 3 | found.get(_OTHER, 0))


def _keeps_modes(fd: int) -> bool:
    """Whether the new, empty file has the mode that it is given."""
    try:
        os.fchmod(fd, 0o700)
        kept = stat.S_IMODE(os.fstat(fd).st_mode) == 0o700
        os.fchmod(fd, 0o600)
    except OSError:
        return False
    return kept


def umask() -> int:
    """The process's umask, read without setting it (os.umask would race with other threads)."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("Umask:"):
                    return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o077  # unknown: the careful answer
