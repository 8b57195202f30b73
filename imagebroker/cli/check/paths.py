"""Whether this user can use the files and directories that a backend's options name."""

from __future__ import annotations

import os
import pwd
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from oslo_config import cfg

from imagebroker.backends.backend import BackendHost
from imagebroker.cli.check.problem import FAILURE, WARNING, Problem, failure
from imagebroker.config.settings import Section
from imagebroker.exceptions import ConfigError
from imagebroker.system.owned_directory import OwnedByAnother, open_owned

#: Options that name a private key.
_PRIVATE_KEY = re.compile(r"(?:identity|key)_?file$")


def check(host: BackendHost, options: Iterable[cfg.Opt]) -> Iterator[Problem]:
    """Every option whose value is an absolute path, whatever the option is.

    One that ends in `_dir` is a directory of the backend's own, which it may still have to create.
    """
    for option in options:
        if option.secret:
            continue
        value = host.options.get(option.dest)
        for path in value if isinstance(value, list) else [value]:
            if isinstance(path, str) and path.startswith("/"):
                problem = _problem(option, path, Section(host.name, host.instance).group)
                if problem is not None:
                    yield problem


def _problem(option: cfg.Opt, path: str, group: str) -> Problem | None:
    where = f"[{group}] {option.name}"
    if option.dest.endswith("_dir"):
        return private_directory(where, path, readable=True)
    if _PRIVATE_KEY.search(option.dest) and world_readable(path):
        return Problem(
            FAILURE, where, f"every user of this host can read {path}",
            f"chmod 600 {path}, and replace the key: others may have read it",
        )  # fmt: skip
    return _readable(where, path)


def world_readable(path: str | os.PathLike[str]) -> bool:
    """Whether every user of this host can read the file."""
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False


def private_directory(
    where: str, path: str, *, readable: bool = False, optional: bool = False
) -> Problem | None:
    """A directory that must belong to this user, or that this user can create.

    `optional`: another user's is left out, and a warning.
    """
    try:
        if os.path.lexists(path) or not os.path.isabs(path):
            os.close(open_owned(Path(path), where, readable=readable, make=False))
            return None
    except OwnedByAnother as error:
        found = failure(where, error)
        if not optional:
            return found
        return Problem(
            WARNING, where, f"{found.what}: it is not used",
            "run this command as the user of the service, or set a directory of this user in a "
            "config file of their own",
        )  # fmt: skip
    except ConfigError as error:
        return failure(where, error)
    except OSError:
        pass  # reported below
    return _creatable(where, path)


def _creatable(where: str, path: str) -> Problem | None:
    nearest = path
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest)
    if not os.path.isdir(nearest):
        return Problem(FAILURE, where, f"{nearest} is not a directory", "name a directory")
    if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        return Problem(
            FAILURE, where, f"this user cannot write to {nearest}",
            f"let {_user()} own {path}, or run this command as the user of the service",
        )  # fmt: skip
    return None


def _readable(where: str, path: str) -> Problem | None:
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return Problem(WARNING, where, f"{path} does not exist", "create it, or correct the path")
    except OSError:
        is_directory = False  # not even stat is permitted
    if not os.access(path, os.R_OK | (os.X_OK if is_directory else 0)):
        return Problem(
            FAILURE, where, f"this user cannot read {path}",
            f"let {_user()} read it, or run this command as the user of the service",
        )  # fmt: skip
    return None


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"
