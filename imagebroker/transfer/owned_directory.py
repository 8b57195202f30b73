"""A directory that belongs to this user alone: what lies in it was put there by nobody else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from imagebroker.exceptions import ConfigError


def open_owned(path: Path, option: str) -> int:
    """A descriptor of the directory at `path`, which is made (0700) if it is not there.

    :raises ConfigError: it is a link or no directory, somebody else's, or open to others.
    :raises OSError: it cannot be made or opened.
    """
    if not path.is_absolute():
        raise ConfigError(
            f"{option}: {os.fspath(path)!r} is not an absolute path", hint="write one"
        )
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    # Both before and after: somebody else's may not be to be opened, and may take its place.
    _check(os.stat(path, follow_symlinks=False), path, option)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check(os.fstat(fd), path, option)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check(found: os.stat_result, path: Path, option: str) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise _refused(path, option, "is a link or no directory")
    if found.st_uid != os.geteuid():
        raise _refused(path, option, f"belongs to the user with id {found.st_uid}")
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise _refused(path, option, f"is open to others (mode {mode:04o})")


def _refused(path: Path, option: str, why: str) -> ConfigError:
    return ConfigError(
        f"{option}: {os.fspath(path)!r} {why}",
        hint="name a directory of this user's own, with the mode 0700, or one that is not there "
        "yet: it is made",
    )
