"""Secrets in a config file that every user of this host can read."""

from __future__ import annotations

from collections.abc import Iterator

from oslo_config import cfg

from imagebroker.cli.check.configuration import Configuration, Instance
from imagebroker.cli.check.paths import world_readable
from imagebroker.cli.check.problem import WARNING, Problem
from imagebroker.config.options import backend_options
from imagebroker.exceptions import ConfigError


def check(configuration: Configuration) -> Iterator[Problem]:
    settings = configuration.settings
    for section in settings.sections():
        declared = configuration.backends.get(section.name)
        if declared is None:
            continue
        instance = Instance(section, declared, configuration)
        for option in [*declared.options, *_proxy_with_password(instance)]:
            line = settings.line(section.group, option.dest)
            if option.secret and line is not None and world_readable(line.file):
                yield Problem(
                    WARNING, f"[{section.group}] {option.dest}",
                    f"{line.file} contains a secret, and every user of this host can read it",
                    f"chmod o= {line.file}",
                )  # fmt: skip


def _proxy_with_password(instance: Instance) -> list[cfg.Opt]:
    """The option `proxy`, if its value has a password in it."""
    settings, backend = instance.configuration.settings, instance.backend
    try:
        values = settings.backend(instance.section, [], backend.require_checksum)
    except ConfigError:
        return []  # reported by instances
    if "@" not in (values.get("proxy") or ""):
        return []
    return [option for option in backend_options() if option.dest == "proxy"]
