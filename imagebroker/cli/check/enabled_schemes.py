"""Whether schemes are enabled, and whether their plugins can be loaded."""

from __future__ import annotations

from collections.abc import Iterator

from imagebroker.cli.check.configuration import Configuration
from imagebroker.cli.check.problem import WARNING, Problem, failure
from imagebroker.config.options import GROUP

_WHERE = f"[{GROUP}] enabled_schemes"


def check(configuration: Configuration) -> Iterator[Problem]:
    if not configuration.registry.enabled:
        yield Problem(
            WARNING, _WHERE, "no scheme is enabled: every image is refused",
            "list the schemes to allow, for example: enabled_schemes = file, https",
        )  # fmt: skip
    if configuration.registry.all_installed:
        return  # every installed scheme is tried: one that cannot be loaded is not a mistake
    for _, error in configuration.broken:
        yield failure(_WHERE, error)
