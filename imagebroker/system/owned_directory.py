"""A directory that belongs to this user alone: what lies in it was put there by nobody else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from imagebroker.exceptions import ConfigError

#: What a directory of ours is made with, and those above it that are missing.
_MODE = 0o700


def open_owned(path: Path, option: str, *, readable: bool = False, make: bool = True) -> int:
    """A descriptor of the directory at `path`, which is made (0700) if it is not there.

    So are those above it, whatever the umask is.

    :param readable: it may be a link of this user's or root's, and others may look into it, as
        they may where a package made it; nobody else may write to it.
    :param make: False: it has to be there.
    :raises ConfigError: it is a link or no directory, somebody else's, or open to others.
    :raises OSError: it cannot be made or opened.
    """
    if not path.is_absolute():
        raise ConfigError(
            f"{option}: {os.fspath(path)!r} is not an absolute path", hint="write one"
        )
    if readable:
        path = _followed(path, option)
    if make:
        make_private(path)
    # Both before and after: somebody else's may not be to be opened, and may take its place.
    _check(os.stat(path, follow_symlinks=False), path, option, readable)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check(os.fstat(fd), path, option, readable)
    except BaseException:
        os.close(fd)
        raise
    return fd


def make_private(path: Path) -> None:
    """Make a directory, and those above it that are missing, for this user alone.

    :raises OSError: that cannot be done; that it is there already is no error.
    """
    missing = [each for each in path.parents if not os.path.lexists(each)]
    for each in (*reversed(missing), path):
        try:
            os.mkdir(each, _MODE)
        except FileExistsError:
            continue
        if os.stat(each, follow_symlinks=False).st_mode & _MODE != _MODE:
            os.chmod(each, _MODE)  # the umask took more than what is for others


def _followed(path: Path, option: str) -> Path:
    """Where a link leads that nobody else can have planted."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return path  # not there: said, or made, by who asked
    if not stat.S_ISLNK(found.st_mode):
        return path
    if found.st_uid not in (os.geteuid(), 0):
        raise _refused(path, option, f"is a link of the user with id {found.st_uid}", True)
    return Path(os.path.realpath(path))


def _check(found: os.stat_result, path: Path, option: str, readable: bool) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        raise _refused(path, option, "is a link or no directory", readable)
    if found.st_uid != os.geteuid():
        raise _refused(path, option, f"belongs to the user with id {found.st_uid}", readable)
    if readable and mode & 0o022:
        raise _refused(path, option, f"may be written to by others (mode {mode:04o})", readable)
    if not readable and mode & 0o077:
        raise _refused(path, option, f"is open to others (mode {mode:04o})", readable)


def _refused(path: Path, option: str, why: str, readable: bool) -> ConfigError:
    return ConfigError(
        f"{option}: {os.fspath(path)!r} {why}",
        hint="name a directory of this user's own that nobody else may write to, or one that is "
        "not there yet: it is made" if readable else
        "name a directory of this user's own, with the mode 0700, or one that is not there "
        "yet: it is made",
    )  # fmt: skip
