"""Whose config file one is, and what becomes of each of its options about images: for `check`.

Little is imported: every `check` asks, also of a file of our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from oslo_config import cfg

    from imagebroker.compat.service_options import Meanings
    from imagebroker.config.settings import Inherited

#: The sections and options of a config file, as written.
Written = Mapping[str, Mapping[str, Any]]


class _Module(Protocol):
    def inherited(self, conf: cfg.ConfigOpts) -> Inherited: ...

    def meanings(self, conf: cfg.ConfigOpts, ours: Inherited) -> Meanings: ...


@dataclass(frozen=True)
class ServiceFile:
    """The config file of one service."""

    service: str
    #: Sections that show whose file it is, whatever its name.
    sections: frozenset[str]
    #: The same for options of `[DEFAULT]`.
    options: frozenset[str]

    def is_meant(self, path: Path, written: Written) -> bool:
        named = path.name == f"{self.service}.conf"
        return named or not (
            self.sections.isdisjoint(written)
            and self.options.isdisjoint(written.get("DEFAULT", ()))
        )

    @property
    def inherited(self) -> Callable[[cfg.ConfigOpts], Inherited]:
        """What its options mean to a broker in that service."""
        return self._module.inherited

    def became(self, conf: cfg.ConfigOpts) -> Iterator[tuple[str, str]]:
        """For each of its options about images that is set: where it is, what becomes of it."""
        from imagebroker.compat.service_options import ServiceOptions, told

        ours = self.inherited(conf)
        yield from told(ServiceOptions(conf), ours, self._module.meanings(conf, ours))

    @property
    def _module(self) -> _Module:
        return cast(_Module, import_module(f"imagebroker.compat.{self.service}_options"))


_SERVICES = (
    ServiceFile(
        "ironic",
        frozenset({"deploy", "pxe", "redfish", "ilo", "ansible", "service_catalog"}),
        frozenset({"enabled_hardware_types", "enabled_deploy_interfaces"}),
    ),
    ServiceFile(
        "cinder",
        frozenset({"backend_defaults"}),
        frozenset({"enabled_backends", "glance_api_servers", "volumes_dir", "target_helper"}),
    ),
    ServiceFile(
        "nova",
        frozenset({"api_database", "libvirt", "placement", "vnc"}),
        frozenset({"compute_driver"}),
    ),
)  # fmt: skip


def service_of(path: Path, written: Written) -> ServiceFile | None:
    """The service whose file it is; None for a file of our own."""
    return next((each for each in _SERVICES if each.is_meant(path, written)), None)
