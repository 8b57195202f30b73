"""Passwords and tokens that would leave this host without encryption."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from imagebroker.cli.check.configuration import Configuration, Instance
from imagebroker.cli.check.problem import WARNING, Problem
from imagebroker.exceptions import ConfigError
from imagebroker.policy.addresses import is_loopback

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
            if _is_readable(url):
                what = "tokens are" if option != "auth_url" and values.get("auth_url") else (
                    f"{secrets[0]} is"
                )  # fmt: skip
                yield Problem(
                    WARNING, f"[{section.group}] {option}",
                    f"{what} sent to {url} without encryption: anybody on the network path can "
                    "read them",
                    "write https:// if the server has a certificate",
                )  # fmt: skip


def _is_readable(url: str) -> bool:
    """Whether somebody on the network can read what is sent there."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and not is_loopback(parts.hostname or "")
    except ValueError:
        return False  # no URL: reported by instances
