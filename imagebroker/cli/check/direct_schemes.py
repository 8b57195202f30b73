"""Whether the schemes of `direct_url_schemes` are enabled."""

from __future__ import annotations

from collections.abc import Iterator

from imagebroker.cli.check.configuration import Configuration
from imagebroker.cli.check.problem import WARNING, Problem
from imagebroker.config.options import GROUP


def check(configuration: Configuration) -> Iterator[Problem]:
    for scheme in configuration.settings.core.direct_url_schemes:
        if scheme not in configuration.registry.enabled:
            yield Problem(
                WARNING, f"[{GROUP}] direct_url_schemes",
                f"{scheme!r} is not enabled: its locations are never used",
                f"add {scheme} to enabled_schemes, or remove it here",
            )  # fmt: skip
