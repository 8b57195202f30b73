"""The person who runs this process: their home and their name, where they have any.

A process without HOME whose user is in no user database (`docker run --user 12345`, some batch
systems) has neither; what a library makes of it differs (`~`, RuntimeError, KeyError, OSError).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path


def own_home() -> str | None:
    """The home, an absolute path; None if HOME is empty or no path, and the user is unknown."""
    home = os.environ.get("HOME")
    if home is None:
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            return None
    return home if home.startswith("/") else None


def own_folder(variable: str, below: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """A folder of the XDG Base Directory Specification: of the variable, or `below` the home.

    A relative one is to be ignored, says the specification.
    """
    named = environ.get(variable, "")
    if named.startswith("/"):
        return Path(named)
    home = own_home()
    return None if home is None else Path(home, below)


def own_login() -> str | None:
    """The login name: of the user database, as ssh takes it, or else of the environment."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return os.environ.get("LOGNAME") or os.environ.get("USER") or None
