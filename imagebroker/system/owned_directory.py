"""Directories that only this user can write to, so that every file in them is this user's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from imagebroker.exceptions import ConfigError

#: The mode with which directories are created, including missing parents.
_MODE = 0o700


class OwnedByAnother(ConfigError):
    """It belongs to another user: what is optional is left out, what is needed is an error."""


def open_owned(path: Path, option: str, *, readable: bool = False, make: bool = True) -> int:
    """A descriptor of the directory at `path`, which is created (0700) if it is missing.

    Missing parents are created, too, whatever the umask is.

    :param readable: others may read it, as in a directory that a package created, but not write
        to it; and it may be a link that this user or root owns.
    :param make: False: do not create it.
    :raises ConfigError: it is a link, not a directory, or open to others; `OwnedByAnother` if it
        belongs to another user.
    :raises OSError: it cannot be created or opened.
    """
    if not path.is_absolute():
        raise ConfigError(
            f"{option}: {os.fspath(path)!r} is not an absolute path",
            hint="write a path that begins with /",
        )
    if readable:
        path = _followed(path, option)
    if make:
        make_private(path)
    # Checked before, since another user's may not be readable, and after: it may be replaced.
    _check(os.stat(path, follow_symlinks=False), path, option, readable)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check(os.fstat(fd), path, option, readable)
    except BaseException:
        os.close(fd)
        raise
    return fd


def make_private(path: Path) -> None:
    """Create a directory, and missing parents, for this user only; it may exist already.

    :raises OSError: it cannot be created.
    """
    missing = [each for each in path.parents if not os.path.lexists(each)]
    for each in (*reversed(missing), path):
        try:
            os.mkdir(each, _MODE)
        except FileExistsError:
            continue
        if os.stat(each, follow_symlinks=False).st_mode & _MODE != _MODE:
            os.chmod(each, _MODE)  # the umask removed permissions of this user


def _followed(path: Path, option: str) -> Path:
    """The target of a link, if it is one that no other user can have planted."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return path  # missing: the caller reports or creates it
    if not stat.S_ISLNK(found.st_mode):
        return path
    if found.st_uid not in (os.geteuid(), 0):
        raise _refused(path, option, f"is a link owned by the user id {found.st_uid}", True)
    return Path(os.path.realpath(path))


def _check(found: os.stat_result, path: Path, option: str, readable: bool) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode):
        raise _refused(path, option, "is not a directory, or a link to one", readable)
    if found.st_uid != os.geteuid():
        refused = _refused(path, option, f"is owned by the user id {found.st_uid}", readable)
        raise OwnedByAnother(str(refused), hint=refused.hint)
    if readable and mode & 0o022:
        raise _refused(path, option, f"is writable by other users (mode {mode:04o})", readable)
    if not readable and mode & 0o077:
        raise _refused(path, option, f"is open to other users (mode {mode:04o})", readable)


def _refused(path: Path, option: str, why: str, readable: bool) -> ConfigError:
    return ConfigError(
        f"{option}: {os.fspath(path)!r} {why}",
        hint="name a directory that belongs to this user and that no other user can write to, or "
        "one that does not exist yet" if readable else
        "name a directory that belongs to this user and has mode 0700, or one that does not exist "
        "yet",
    )  # fmt: skip
