"""What a person has set for Ceph's own commands: `CEPH_CONF` and `CEPH_ARGS`.

Only for a person who runs the command without a config file of a service.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from imagebroker.plugin import ConfigError, Options, own_home

_DEFAULT = "/etc/ceph/ceph.conf"
#: Options of all of Ceph's commands that matter here.
_ARGUMENTS = {
    "--id": "user", "--user": "user", "-n": "name", "--name": "name", "-k": "keyring",
    "--keyring": "keyring", "-c": "ceph_conf", "--conf": "ceph_conf",
}  # fmt: skip


def personal_options(options: Options, environ: Mapping[str, str] = os.environ) -> Options:
    """`options`, with what the environment says in place of defaults.

    :raises ConfigError: `CEPH_ARGS` cannot be read.
    """
    found = {"ceph_conf": _config_file(environ)} | _arguments(environ.get("CEPH_ARGS") or "")
    defaults = {"ceph_conf": _DEFAULT, "user": "admin", "keyring": None}
    return Options({
        **options,
        **{name: value for name, value in found.items()
           if options.get(name) in (None, "", defaults[name])},
    })  # fmt: skip


def _config_file(environ: Mapping[str, str]) -> str:
    """Where Ceph's commands look for it, in their order."""
    if environ.get("CEPH_CONF"):
        return environ["CEPH_CONF"]
    home = own_home()
    places = [Path(_DEFAULT), *([Path(home, ".ceph", "ceph.conf")] if home else [])]
    return str(next((path for path in places if path.is_file()), _DEFAULT))


def _arguments(text: str) -> dict[str, str]:
    try:
        words = [part for word in shlex.split(text) for part in _halves(word)]
    except ValueError as error:
        raise ConfigError(
            f"CEPH_ARGS cannot be read: {error}", hint="check its quotes, or unset CEPH_ARGS"
        ) from error
    found: dict[str, str] = {}
    for name, value in pairwise(words):
        option = _ARGUMENTS.get(name)
        if option == "name":
            found["user"] = value.removeprefix("client.")
        elif option is not None:
            found[option] = value
    return found


def _halves(word: str) -> list[str]:
    return word.split("=", 1) if word.startswith("--") else [word]
