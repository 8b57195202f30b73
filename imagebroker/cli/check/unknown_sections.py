"""Sections of the config file that nothing reads."""

from __future__ import annotations

import re
from collections.abc import Iterator

from imagebroker.cli.check.configuration import Configuration
from imagebroker.cli.check.problem import WARNING, Problem
from imagebroker.cli.check.suggestion import similar, suggestion
from imagebroker.compat.service_files import service_of
from imagebroker.config.options import CORE_OPTIONS, GROUP
from imagebroker.config.settings import BACKEND_NAME, PREFIX
from imagebroker.exceptions import ImageBrokerError
from imagebroker.registry import find_entry_points

#: Sections that castellan reads, which fetches the certificates of signatures.
_CASTELLAN = ("key_manager", "barbican", "barbican_service_user", "vault")


def check(configuration: Configuration) -> Iterator[Problem]:
    registry, written = configuration.registry, configuration.written
    names = {*registry.enabled, *configuration.backends, *find_entry_points()}
    known = [GROUP, *(PREFIX + name for name in sorted(names))]
    for title in written:
        name = _backend_name(title)
        if title.lower() == GROUP or title in ("DEFAULT", *_CASTELLAN):
            continue
        if name in names:
            yield from _other_backend(configuration, title, name)
            continue
        near = similar(title.strip().lower(), known)
        if near or not _is_file_of_a_service(configuration):
            yield Problem(
                WARNING, f"[{title}]", "unknown section: nothing reads it",
                suggestion(near and f"[{near}]"),
            )  # fmt: skip


def _other_backend(configuration: Configuration, title: str, scheme: str) -> Iterator[Problem]:
    """A section named after a scheme whose backend has another name: https belongs to http."""
    registry = configuration.registry
    if scheme in configuration.backends or scheme not in registry.enabled:
        return
    try:
        owner = registry.declaration(scheme).name
    except ImageBrokerError:
        return  # reported by enabled_schemes
    yield Problem(
        WARNING, f"[{title}]",
        f"nothing reads this section: the scheme {scheme} belongs to the backend {owner}",
        f"move its options to [{PREFIX}{owner}]",
    )  # fmt: skip


def _backend_name(title: str) -> str:
    """NAME of a section `backend:NAME[:INSTANCE]`; empty for any other section."""
    match = BACKEND_NAME.fullmatch(title.removeprefix(PREFIX))
    return match["name"] if match is not None and title.startswith(PREFIX) else ""


def _is_file_of_a_service(configuration: Configuration) -> bool:
    """Whether this is the config file of a whole service such as Nova, with sections of its own."""
    path, written = configuration.path, configuration.written
    if path is not None and service_of(path, written) is not None:
        return True
    ours = {option.dest for option in CORE_OPTIONS}
    others = set(written.get("DEFAULT", {})) - ours
    return bool(others) or any(re.match(r"oslo_|keystone|database$", title) for title in written)
