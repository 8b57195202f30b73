"""Core options in [DEFAULT], where they have no effect."""

from __future__ import annotations

from collections.abc import Iterator

from imagebroker.cli.check.configuration import Configuration
from imagebroker.cli.check.problem import WARNING, Problem
from imagebroker.config.options import CORE_OPTIONS, GROUP

#: Names that a service may use for options of its own.
_COMMON = {"fsync", "retries", "deadline"}


def check(configuration: Configuration) -> Iterator[Problem]:
    ours = {option.dest for option in CORE_OPTIONS} - _COMMON
    for name in configuration.written.get("DEFAULT", {}):
        if name in ours:
            yield Problem(
                WARNING, f"[DEFAULT] {name}", "this option has no effect in [DEFAULT]",
                f"move it to [{GROUP}]",
            )  # fmt: skip
