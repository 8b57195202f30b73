"""The config file of a service whose own options about images are understood."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from oslo_config import cfg

from imagebroker.cli.check.configuration import Configuration, Written
from imagebroker.cli.check.problem import OK, Problem
from imagebroker.compat.service_files import service_of
from imagebroker.config.settings import Inherited


def inheritance(path: Path, written: Written) -> Callable[[cfg.ConfigOpts], Inherited] | None:
    """The meaning of a service's other options for a broker in it; None for a file of our own."""
    service = service_of(path, written)
    return None if service is None else service.inherited


def check(configuration: Configuration) -> Iterator[Problem]:
    """No problems: what each of the service's options became."""
    if configuration.path is None:
        return
    service = service_of(configuration.path, configuration.written)
    if service is not None:
        for option, became in service.became(configuration.settings.conf):
            yield Problem(OK, option, became, "")
