"""The config file of a service whose own options about images are understood."""

from __future__ import annotations

from collections.abc import Iterator

from imagebroker.cli.check.configuration import Configuration
from imagebroker.cli.check.problem import OK, Problem
from imagebroker.compat.service_files import service_of


def check(configuration: Configuration) -> Iterator[Problem]:
    """No problems: what each of the service's options became."""
    if configuration.path is None:
        return
    service = service_of(configuration.path, configuration.written)
    if service is not None:
        for option, became in service.became(configuration.settings.conf):
            yield Problem(OK, option, became, "")
