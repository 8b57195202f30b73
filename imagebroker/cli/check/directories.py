"""Whether the directories of the core can be used: `state_dir` and `cache_dir`."""

from __future__ import annotations

from collections.abc import Iterator

from imagebroker.cli.check.configuration import Configuration
from imagebroker.cli.check.paths import private_directory
from imagebroker.cli.check.problem import Problem
from imagebroker.config.options import GROUP


def check(configuration: Configuration) -> Iterator[Problem]:
    for name in ("state_dir", "cache_dir"):
        if path := configuration.settings.core[name]:
            problem = private_directory(f"[{GROUP}] {name}", path, optional=True)
            if problem is not None:
                yield problem
