"""A broker with a fixed set of backend classes, instead of those that are installed."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from oslo_config import cfg

from imagebroker.backends.backend import ImageBackend
from imagebroker.broker import Broker
from imagebroker.config.options import CORE_OPTIONS, GROUP, backend_options, reloadable
from imagebroker.config.settings import PREFIX, Settings
from imagebroker.registry import ENTRY_POINTS, Registry

#: Scheme to class.
Classes = Mapping[str, type[ImageBackend]]


class FixedBroker(Broker):
    """The real broker, with these backends and no others."""

    def __init__(self, settings: Settings, classes: Classes) -> None:
        self._classes = classes
        super().__init__(settings)

    def _found_backends(self, settings: Settings) -> Registry:
        plugins = (_FixedEntryPoint(scheme, cls) for scheme, cls in self._classes.items())
        return Registry(settings, plugins=plugins)


class _FixedEntryPoint(importlib.metadata.EntryPoint):
    """An entry point that leads to a class which need not be importable."""

    def __init__(self, scheme: str, cls: type[ImageBackend]) -> None:
        super().__init__(scheme, f"{cls.__module__}:{cls.__qualname__}", ENTRY_POINTS)
        vars(self)["_cls"] = cls

    def load(self) -> Any:
        return vars(self)["_cls"]


def make_config(
    classes: Classes,
    core: Mapping[str, Any],
    options: Mapping[str, Mapping[str, Any]],
) -> cfg.ConfigOpts:
    """A configuration with these values, as a config file would give them.

    `core` are options of `[imagebroker]`; `options` maps the names of backends to theirs.

    :raises cfg.Error, ValueError: an option is unknown, or a value cannot be used.
    """
    conf = cfg.ConfigOpts()
    conf([], project=GROUP, default_config_files=[], default_config_dirs=[], use_env=False)
    conf.register_opts(CORE_OPTIONS, group=GROUP)
    for name, value in {"enabled_schemes": list(classes), **core}.items():
        conf.set_override(name, value, group=GROUP)
    for cls in dict.fromkeys(classes.values()):
        for section, values in options.items():
            if section.partition(":")[0] != cls.name:
                continue
            group = PREFIX + section
            conf.register_opts(
                [*backend_options(cls.require_checksum), *reloadable(cls.options)],
                group=cfg.OptGroup(group),
            )
            for name, value in values.items():
                conf.set_override(name, value, group=group)
    return conf
