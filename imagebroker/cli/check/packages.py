"""Installed distributions that are damaged, or that overwrite each other's files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib import metadata

from imagebroker.backends.entry_points import distributions, normal
from imagebroker.cli.check.configuration import Configuration
from imagebroker.cli.check.problem import FAILURE, WARNING, Problem

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: A package's first file: two distributions that both have it are not two halves of a namespace.
_PACKAGE = re.compile(r"^([^/,\n]+)/__init__\.py,", re.MULTILINE)


def check_conflicts(configuration: Configuration) -> Iterator[Problem]:
    """Packages that two distributions install, where one of the two is ours or needed by ours."""
    needed = _needed(configuration.registry.distributions())
    owners: dict[str, set[str]] = defaultdict(set)
    for name, distribution in distributions():
        # Not `distribution.files`, which makes an object of each of ten thousand lines.
        for package in _PACKAGE.findall(_record(distribution)):
            owners[package].add(name)
    for package, names in sorted(owners.items()):
        if len(names) < 2 or needed.isdisjoint(map(normal, names)):
            continue
        ours = sorted(name for name in names if normal(name) in needed)
        others = sorted(names - set(ours)) or ours[1:]
        yield Problem(
            FAILURE, ours[0],
            f"{' and '.join(sorted(names))} both install the package {package}: one overwrites "
            "the other",
            f"pip uninstall {' '.join(others)} && pip install --force-reinstall {ours[0]}",
        )  # fmt: skip


def check_damage(configuration: Configuration) -> Iterator[Problem]:
    """Distributions whose metadata cannot be read: their backends may be missing."""
    for each in configuration.registry.damaged:
        yield Problem(WARNING, each.distribution, each.problem, each.remedy, each.path)


def _record(distribution: metadata.Distribution) -> str:
    try:
        return distribution.read_text("RECORD") or ""
    except (OSError, ValueError):
        return ""  # damaged: what it installs is unknown


def _needed(roots: Iterable[str]) -> set[str]:
    """The distributions themselves and everything they may depend on, with any extra."""
    found: set[str] = set()
    waiting = [normal(name) for name in roots]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            requirements = metadata.distribution(name).requires or ()
        except (metadata.PackageNotFoundError, OSError, ValueError):
            continue
        found.add(name)
        matches = map(_NAME.match, requirements)
        waiting += [normal(match[0]) for match in matches if match is not None]
    return found
