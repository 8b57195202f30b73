"""The home directory and the login name of the user who runs this process, if there are any.

A process without HOME whose user is not in the user database (`docker run --user 12345`, some batch
systems) has neither, and libraries react in different ways (`~`, RuntimeError, KeyError, OSError).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path


def own_home() -> str | None:
    """The home directory, an absolute path; None if HOME is not one, or the user is unknown."""
    home = os.environ.get("HOME")
    if home is None:
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            return None
    return home if home.startswith("/") else None


def own_folder(variable: str, below: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """A directory of the XDG Base Directory Specification: `variable`, or `below` the home.

    The specification says to ignore a relative path.
    """
    named = environ.get(variable, "")
    if named.startswith("/"):
        return Path(named)
    home = own_home()
    return None if home is None else Path(home, below)


def own_login() -> str | None:
    """The login name: from the user database, as in ssh, or else from the environment."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return os.environ.get("LOGNAME") or os.environ.get("USER") or None
