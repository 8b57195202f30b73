"""The config file of a service whose own options about images are understood."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from oslo_config import cfg

from imagebroker.cli.check.configuration import Configuration, Written
from imagebroker.cli.check.problem import OK, Problem
from imagebroker.config.settings import Inherited


def inheritance(written: Written) -> Callable[[cfg.ConfigOpts], Inherited] | None:
    """What its other options mean to a broker in that service; None for a file of our own."""
    if "glance" not in written:
        return None
    from imagebroker.compat import nova_options

    return nova_options.inherited if nova_options.is_meant(written) else None


def check(configuration: Configuration) -> Iterator[Problem]:
    """No problems: what each of the service's options became."""
    if inheritance(configuration.written) is None:
        return
    from imagebroker.compat import nova_options

    for option, became in nova_options.became(configuration.settings.conf):
        yield Problem(OK, option, became, "")
