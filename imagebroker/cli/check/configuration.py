"""The configuration to check: the settings, the lines of the file, and the enabled backends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oslo_config import cfg, iniparser

from imagebroker.backends.backend import BackendHost
from imagebroker.backends.declaration import Declaration
from imagebroker.config.options import backend_options
from imagebroker.config.settings import Section, Settings
from imagebroker.exceptions import ConfigError, ImageBrokerError
from imagebroker.registry import Registry

#: The sections and options of a config file, with their values as written.
Written = Mapping[str, Mapping[str, Any]]


def written_in(path: Path | None) -> Written:
    """The content of a config file, unknown sections included, which oslo.config does not report.

    :raises cfg.ConfigFileParseError, ValueError, OSError: it has not the form of one.
    """
    found: dict[str, dict[str, Any]] = {}
    if path is not None:
        try:
            cfg.ConfigParser(str(path), found).parse()
        except iniparser.ParseError as error:  # the parser's own, which is no cfg.Error
            raise cfg.ConfigFileParseError(str(path), str(error)) from error
    return found


@dataclass
class Configuration:
    """One configuration whose core options have usable values."""

    settings: Settings
    registry: Registry
    written: Written
    #: The file; None: there is none.
    path: Path | None = None
    #: Connect to no server.
    offline: bool = False
    #: The enabled backends whose plugin could be loaded, by name.
    backends: dict[str, Declaration] = field(default_factory=dict)
    #: Why the others could not: scheme and error.
    broken: list[tuple[str, ImageBrokerError]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for scheme in self.registry.enabled:
            try:
                declared = self.registry.declaration(scheme)
            except ImageBrokerError as error:
                self.broken.append((scheme, error))
            else:
                self.backends[declared.name] = declared

    def instances(self) -> Iterator[Instance]:
        """The instances that the file configures, and the unnamed one of each other backend."""
        written = [s for s in self.settings.sections() if s.name in self.backends]
        named = {section.name for section in written}
        alone = [Section(name, None) for name in self.backends if name not in named]
        for section in [*dict.fromkeys(written), *alone]:
            yield Instance(section, self.backends[section.name], self)


@dataclass
class Instance:
    """One configured instance of a backend."""

    section: Section
    backend: Declaration
    configuration: Configuration

    @property
    def options(self) -> Sequence[cfg.Opt]:
        """All options that its section may have."""
        return [*backend_options(self.backend.require_checksum), *self.backend.options]

    def load(self) -> tuple[list[ImageBrokerError], BackendHost | None]:
        """Everything that is wrong with its options; or, if nothing is, the host of its backend."""
        settings, problems = self.configuration.settings, dict[str, ImageBrokerError]()
        for chosen in ([], *([option] for option in self.backend.options)):
            try:
                values = settings.backend(self.section, chosen, self.backend.require_checksum)
                settings.policy(self.section, values)
            except ConfigError as error:
                problems[str(error)] = error
        if problems:
            return list(problems.values()), None
        try:
            return [], self.configuration.registry.backend(self.section).host
        except ImageBrokerError as error:
            return [error], None
