"""The backends' own checks: they log in, and make a small request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from imagebroker.backends.backend import Options
from imagebroker.cli.check.configuration import Configuration
from imagebroker.cli.check.problem import FAILURE, Problem
from imagebroker.config.settings import Section
from imagebroker.exceptions import ImageBrokerError

#: Seconds for one instance, whatever the configured limits are.
_LONGEST = 60.0


def check(configuration: Configuration, sections: Iterable[Section]) -> Iterator[Problem]:
    """All instances at once. Each has as long as a server may take to connect, and to answer."""
    todo = list(sections)
    if not todo:
        return
    limits = configuration.settings.limits
    seconds = min(_LONGEST, limits.connect_timeout + limits.stall_timeout)
    with ThreadPoolExecutor(max_workers=min(16, len(todo))) as pool:
        for found in pool.map(lambda each: _check(configuration, each, seconds), todo):
            yield from found


def _check(configuration: Configuration, section: Section, seconds: float) -> list[Problem]:
    group = section.group
    try:
        backend = configuration.registry.backend(section)
        findings = list(backend.check(None, timeout=seconds))
    except ImageBrokerError as error:
        return [_problem(group, FAILURE, "", str(error), error.hint)]
    return [
        _problem(group, level, named or _option_of(what, backend.host.options), what, remedy)
        for what, level, remedy, named in findings
    ]


def _problem(group: str, level: str, option: str, what: str, remedy: str) -> Problem:
    """At the option, or else at the one that the text begins with, which is not said again.

    An error of a call has the section with its option.
    """
    section, _, name = option.rpartition(" ")
    section = section or f"[{group}]"
    begin = re.match(rf"{re.escape(section)}(?: ({name or '[a-z0-9_]+'}))?: ", what)
    if begin is not None:
        what, name = what[begin.end() :], name or begin[1] or ""
    return Problem(level, f"{section} {name}".rstrip(), what, remedy)


def _option_of(what: str, options: Options) -> str:
    """The option whose server the text names; empty if it names none."""
    for option in ("auth_url", "endpoint_url", "endpoint"):
        value = options.get(option) or ()
        for url in [value] if isinstance(value, str) else value:
            server = url.partition("://")[2].partition("/")[0]
            if server and (server in what or server.replace(":", " port ") in what):
                return option
    return ""
