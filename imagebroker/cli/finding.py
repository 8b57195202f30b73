"""One mistake in a configuration, as `imagebroker check` reports it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from imagebroker.exceptions import ImageBrokerError

#: Something that is configured cannot work.
FAILURE = "failure"
#: Something hardly means what was meant.
WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One mistake."""

    #: `FAILURE` or `WARNING`.
    level: str
    #: `[section] option` of the config file.
    where: str
    what: str
    remedy: str
    #: `FILE:LINE` of that; empty where it is not written.
    file: str = ""


def failure(where: str, error: ImageBrokerError) -> Finding:
    """What an error says, which may begin with the place that has a column of its own here."""
    return Finding(FAILURE, where, str(error).removeprefix(f"{where}: "), error.hint)


def status(findings: Iterable[Finding]) -> int:
    """0 without findings, 1 for warnings, 2 for failures."""
    return max(({FAILURE: 2, WARNING: 1}[finding.level] for finding in findings), default=0)
