"""What the backends find out themselves: they log in, and ask their servers for something small."""

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
        return [Problem(FAILURE, f"[{group}]", str(error), error.hint)]
    problems = []
    for what, level, remedy, named in findings:
        option = named or _option_of(what, backend.host.options)
        where = f"[{group}] {option}".rstrip()
        if match := re.match(rf"\[{re.escape(group)}\](?: {option})?: ", what):
            what = what[match.end() :]
        problems.append(Problem(level, where, what, remedy))
    return problems


def _option_of(what: str, options: Options) -> str:
    """The option whose server the text names; empty if it names none."""
    for option in ("auth_url", "endpoint_url", "endpoint"):
        value = options.get(option) or ()
        for url in [value] if isinstance(value, str) else value:
            server = url.partition("://")[2].partition("/")[0]
            if server and (server in what or server.replace(":", " port ") in what):
                return option
    return ""
