"""One line of `imagebroker check`: a problem with the configuration, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from imagebroker.exceptions import ImageBrokerError

#: Something was tried, and works.
OK = "ok"
#: Something that is configured cannot work.
FAILURE = "failure"
#: Something works, but probably not as intended.
WARNING = "warning"


@dataclass(frozen=True)
class Problem:
    """One problem. The fields are the columns."""

    #: `FAILURE`, `WARNING` or `OK`.
    level: str
    #: `[section] option` of the config file.
    where: str
    what: str
    remedy: str
    #: `FILE:LINE` of that option; empty if it is not in the file.
    file: str = ""


def failure(where: str, error: ImageBrokerError) -> Problem:
    """The problem that an error reports, without `where` at the beginning of its text."""
    return Problem(FAILURE, where, str(error).removeprefix(f"{where}: "), error.hint)


def exit_status(problems: Iterable[Problem]) -> int:
    """0 without problems, 1 for warnings, 2 for failures."""
    return max(({FAILURE: 2, WARNING: 1, OK: 0}[problem.level] for problem in problems), default=0)
