"""All checks in the order of their lines. A new kind of line is a module here, and an entry below.

Each works on a configuration that no broker could be made from, and reports all problems it finds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from imagebroker.cli.check import (
    core_values,
    default_backend,
    direct_schemes,
    directories,
    enabled_schemes,
    endpoints,
    instances,
    misplaced_options,
    packages,
    plain_http,
    secrets,
    service,
    unknown_options,
    unknown_sections,
)
from imagebroker.cli.check.configuration import Configuration, written_in
from imagebroker.cli.check.problem import Problem, failure
from imagebroker.cli.loaded_config import load
from imagebroker.config.settings import Settings
from imagebroker.registry import Registry

CHECKS: tuple[Callable[[Configuration], Iterable[Problem]], ...] = (
    unknown_sections.check,
    misplaced_options.check,
    unknown_options.check_core,
    core_values.check,
    enabled_schemes.check,
    default_backend.check,
    direct_schemes.check,
    directories.check,
    endpoints.check,
    plain_http.check,
    instances.check,
    secrets.check,
    packages.check_damage,
    packages.check_conflicts,
    service.check,
)


def check(path: Path | None, personal: bool = False, *, offline: bool = False) -> list[Problem]:
    """All problems of a config file; None: of the personal defaults, without a file.

    `personal`: it is the user's own, and overlays the personal defaults. `offline`: connect to no
    server. Otherwise what was tried and works is among them, too.
    """
    loaded = load(path, personal, service=True)
    problems = [failure(where, error) for where, error in loaded.invalid]
    if not loaded.readable:
        return [replace(each, file=getattr(loaded.error, "where", "")) for each in problems]
    registry = Registry(loaded.settings)
    try:
        configuration = Configuration(loaded.settings, registry, written_in(path), path, offline)
        for each in CHECKS:
            problems += each(configuration)
    finally:
        registry.close()
    return [
        each if each.file else replace(each, file=_line(loaded.settings, each.where))
        for each in problems
    ]


def _line(settings: Settings, where: str) -> str:
    """`FILE:LINE` of `[section] option`, or of the section's title."""
    match = re.fullmatch(r"\[([^\]]+)\](?: (\w[\w-]*))?", where)
    if match is None:
        return ""
    line = settings.line(match[1], match[2] or "") or settings.line(match[1])
    return "" if line is None else str(line)
