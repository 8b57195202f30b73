"""The directory of a destination, opened once and used by descriptor ever after."""

from __future__ import annotations

import os
import stat

from imagebroker.exceptions import DestinationError, PolicyViolation
from imagebroker.system.forks import close

_MAX_LINKS = 40


def open_directory(path: bytes) -> int:
    """A descriptor of the directory at `path`. Links are followed, unless somebody else planted
    them in a directory where anybody may (as Linux's `protected_symlinks` has it).

    :raises DestinationError: it is missing, no directory, or not accessible.
    :raises PolicyViolation: another user's link.
    """
    segments = _segments(path)
    links, current = 0, -1
    try:
        current = _start(path)
        while segments:
            segment = segments.pop()
            fd = os.open(segment, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current)
            try:
                target = None
                if stat.S_ISLNK(os.fstat(fd).st_mode):
                    links += 1
                    target = _trusted_link(current, fd, segment, links)
            except BaseException:
                close(fd)
                raise
            if target is not None:
                close(fd)
                fd = _start(target) if target.startswith(b"/") else os.dup(current)
                segments.extend(_segments(target))
            close(current)
            current = fd
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=current)
    except OSError as error:
        shown = os.fsdecode(path)
        raise DestinationError.wrap(error, f"cannot use the directory {shown!r}") from error
    finally:
        close(current)


def _start(path: bytes) -> int:
    return os.open("/" if path.startswith(b"/") else ".", os.O_PATH | os.O_DIRECTORY)


def _segments(path: bytes) -> list[bytes]:
    """The names on the way, the first one last."""
    return [s for s in path.split(b"/") if s not in (b"", b".")][::-1]


def _trusted_link(directory: int, link: int, name: bytes, links: int) -> bytes:
    parent, mine = os.fstat(directory), os.fstat(link)
    shared = parent.st_mode & stat.S_IWOTH and parent.st_mode & stat.S_ISVTX
    if links > _MAX_LINKS or (shared and mine.st_uid not in (os.geteuid(), parent.st_uid)):
        raise PolicyViolation(
            f"the destination passes through the symbolic link {os.fsdecode(name)!r}, which "
            "another user made in a shared directory",
            hint="use the path without that link",
        )
    return os.readlink(name, dir_fd=directory)
