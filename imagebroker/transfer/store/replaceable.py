"""Whether a new file can take the place of what is at a destination."""

from __future__ import annotations

import errno
import os
import stat

from imagebroker.exceptions import DestinationError
from imagebroker.system.forks import close

#: More are followed by no kernel.
_MAX_LINKS = 40
_KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
}
#: What helps almost everywhere; the command says it in its own words.
OPENED = "pass an opened file object to write into what is there"
_HINTS = {
    "directory": "name a file in that directory",
    "block device": "pass to_device=True to replace what it holds, or an opened file object",
    "socket": "read the image with `open`, and send what it returns",
}
#: What says that a link leads to nothing.
_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def check_replaceable(directory: int, name: bytes, shown: str) -> os.stat_result | None:
    """The status of the file there now, None if there is none.

    A link to a regular file, or to nothing, is replaced itself. Whoever names one that leads to a
    device or pipe means that one.

    :raises DestinationError: it is no regular file, or leads to none, or is mounted there.
    """
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        own = os.fstat(directory)
        what = _KINDS.get(stat.S_IFMT(found.st_mode), "")
        if stat.S_ISLNK(found.st_mode):
            what = _behind(directory, name)
            seen = f"is a link that leads to a {what}"
        elif not what and _is_mount_point(directory, name):
            what, seen = "mount point", "is a mount point, which no new file can replace"
        else:
            seen = f"is a {what}, not a regular file"
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DestinationError.wrap(error, f"cannot write {shown!r}") from error
    if what:
        raise DestinationError(f"{shown!r} {seen}", hint=_HINTS.get(what, OPENED), found=what)
    if _is_of_another(found, own):
        raise DestinationError(
            f"{shown!r} belongs to another user, and its directory is sticky",
            hint="choose another name, or remove it as that user",
        )
    return found


def _is_of_another(found: os.stat_result, directory: os.stat_result) -> bool:
    """Whether this process may create files there, but must not replace this one."""
    user = os.geteuid()
    if not directory.st_mode & stat.S_ISVTX or user in (0, found.st_uid, directory.st_uid):
        return False
    return not _may_act_as_owner()


def _may_act_as_owner() -> bool:
    """Whether this process has CAP_FOWNER; true where that cannot be told."""
    try:
        with open("/proc/thread-self/status", "rb") as status:
            line = next(each for each in status if each.startswith(b"CapEff:"))
    except (OSError, StopIteration):
        return True
    return bool(int(line.split()[1], 16) & 1 << 3)


def _behind(directory: int, name: bytes) -> str:
    """The target of a link, through all others; empty for a regular file, or nothing.

    The last one is not simply followed: a link of /proc (/proc/self/fd/1, where /dev/stdout leads)
    stands for what a process has opened, and that may be a regular file.
    """
    at = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        for _ in range(_MAX_LINKS + 1):
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            if not stat.S_ISLNK(found.st_mode):
                return _KINDS.get(stat.S_IFMT(found.st_mode), "")
            if found.st_dev == _device_of_proc():
                return "descriptor of a process"
            parent, name = os.path.split(os.readlink(name, dir_fd=at).rstrip(b"/"))
            after = os.open(
                parent or (b"." if name else b"/"),
                os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC,
                dir_fd=at,
            )
            close(at)
            at, name = after, name or b"."
        return ""  # round and round
    except OSError as error:
        if error.errno in _NOTHING:
            return ""
        raise
    finally:
        close(at)


def _device_of_proc() -> int | None:
    try:
        return os.stat("/proc/self", follow_symlinks=False).st_dev
    except OSError:
        return None


def _is_mount_point(directory: int, name: bytes) -> bool:
    """Whether something is mounted at that very name."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        mine, around = _mount(fd), _mount(directory)
    finally:
        close(fd)
    return None not in (mine, around) and mine != around


def _mount(fd: int) -> str | None:
    """The id of the mount that a descriptor is in (Linux 3.15); None if unknown."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii", errors="replace") as lines:
            for line in lines:
                if line.startswith("mnt_id:"):
                    return line.split()[1]
    except OSError:
        pass
    return None
