"""Instances that claim the same URIs: only one of them gets the refs below."""

from __future__ import annotations

from collections.abc import Iterator

from imagebroker.cli.check.configuration import Configuration
from imagebroker.cli.check.problem import FAILURE, Problem
from imagebroker.config.settings import Section
from imagebroker.exceptions import ConfigError


def check(configuration: Configuration) -> Iterator[Problem]:
    owners: dict[str, Section] = {}
    for section in dict.fromkeys(configuration.settings.sections()):
        if section.name not in configuration.backends:
            continue
        try:
            prefixes = configuration.settings.endpoints(section)
        except ConfigError:
            continue  # reported by instances
        for prefix in dict.fromkeys(prefixes):
            owner = owners.setdefault(prefix.lower(), section)
            if owner != section:
                yield Problem(
                    FAILURE, f"[{section.group}] endpoint",
                    f"{prefix} is the endpoint of [{owner.group}] too: refs below it would belong "
                    "to either",
                    "remove it from one of the two sections, or make one of the URLs longer",
                )  # fmt: skip
