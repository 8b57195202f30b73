"""Passwords and tokens that would be sent without encryption."""

from __future__ import annotations

from collections.abc import Iterator

from imagebroker.cli.check.configuration import Configuration, Instance
from imagebroker.cli.check.problem import WARNING, Problem
from imagebroker.exceptions import ConfigError

#: Options that name the server which gets the secrets, in the order in which they decide.
_SERVERS = ("auth_url", "endpoint_url", "endpoint")


def check(configuration: Configuration) -> Iterator[Problem]:
    for instance in configuration.instances():
        try:
            yield from _check(instance)
        except ConfigError:
            continue  # reported by instances


def _check(instance: Instance) -> Iterator[Problem]:
    section, backend = instance.section, instance.backend
    values = instance.configuration.settings.backend(
        section, backend.options, backend.require_checksum
    )
    secrets = [o.dest for o in backend.options if o.secret and values.get(o.dest)]
    if not secrets:
        return
    for option in _SERVERS:
        value = values.get(option) or ()
        for url in [value] if isinstance(value, str) else value:
            if url.lower().startswith("http://"):
                what = "tokens are" if option != "auth_url" and values.get("auth_url") else (
                    f"{secrets[0]} is"
                )  # fmt: skip
                yield Problem(
                    WARNING, f"[{section.group}] {option}",
                    f"{what} sent to {url} without encryption: anybody on the network path can "
                    "read them",
                    "write https:// if the server has a certificate",
                )  # fmt: skip
