"""Options in the config file that do not exist."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from oslo_config import cfg

from imagebroker.cli.check.configuration import Configuration, Instance
from imagebroker.cli.check.problem import WARNING, Problem
from imagebroker.cli.check.suggestion import similar, suggestion
from imagebroker.config.misspelt import names_of
from imagebroker.config.options import CORE_OPTIONS, GROUP


def check_core(configuration: Configuration) -> Iterator[Problem]:
    yield from _unknown(configuration, GROUP, CORE_OPTIONS)


def check_instance(instance: Instance) -> Iterator[Problem]:
    yield from _unknown(instance.configuration, instance.section.group, instance.options)


def _unknown(
    configuration: Configuration, group: str, options: Iterable[cfg.Opt]
) -> Iterator[Problem]:
    known = names_of(options)
    for name in configuration.written.get(group, {}):
        if name not in known:
            yield Problem(
                WARNING, f"[{group}] {name}", "unknown option: it has no effect",
                suggestion(similar(name, sorted(known))),
            )  # fmt: skip
