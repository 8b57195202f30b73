"""`imagebroker config show`: the options in effect, and where each value comes from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from oslo_config import cfg

from imagebroker.cli.app import Application
from imagebroker.cli.command import ListCommand
from imagebroker.cli.loaded_config import load
from imagebroker.cli.output import Cell
from imagebroker.config.options import CORE_OPTIONS, GROUP, backend_options
from imagebroker.config.settings import Section, Settings
from imagebroker.exceptions import ConfigError, ImageBrokerError, UsageError
from imagebroker.redaction import redact
from imagebroker.registry import Registry

#: Shown in place of a secret.
HIDDEN = "***"


@dataclass(frozen=True)
class Shown:
    """One option."""

    section: str
    option: str
    value: Any
    #: `FILE:LINE`, or `default`.
    source: str

    @property
    def written(self) -> bool:
        return self.source != "default"


class ConfigShow(ListCommand):
    """Show all options in effect, and the line of the config file that sets each.

    Options of the core and of the enabled backends. Environment variables are not read. Secrets are
    hidden. Also works with invalid values.
    """

    column_names = ("section", "option", "value", "source")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument(
            "section", metavar="SECTION", nargs="?",
            help="show only this section, such as backend:http or backend:glance:east",
        )  # fmt: skip
        parser.add_argument(
            "--written", action="store_true", help="show only what the config file sets"
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], list[Sequence[Any]]]:
        app = cast(Application, self.app)
        loaded = load(app.config_file, app.is_personal)
        if not loaded.readable and loaded.error is not None:
            raise loaded.error
        registry = Registry(loaded.settings)
        try:
            shown = [*_core(loaded.settings, registry), *_backends(loaded.settings, registry)]
        finally:
            registry.close()
        if parsed_args.section is not None:
            wanted = parsed_args.section.strip("[]")
            _check_section(wanted, [each.section for each in shown])
            shown = [each for each in shown if each.section == wanted]
        rows: list[Sequence[Any]] = [
            [Cell(getattr(each, name)) for name in self.column_names]
            for each in shown
            if each.written or not parsed_args.written
        ]
        return self.column_names, rows


def _check_section(wanted: str, there: Sequence[str]) -> None:
    """:raises UsageError: no enabled backend has such a section."""
    if wanted not in there:
        names = ", ".join(dict.fromkeys(there))
        raise UsageError(f"unknown section [{wanted}]", hint=f"choose one of {names}")


def _core(settings: Settings, registry: Registry) -> Iterator[Shown]:
    for option in CORE_OPTIONS:
        value = settings.core[option.dest]
        if option.dest == "enabled_schemes":
            value = list(registry.enabled)  # without a config file: every installed one
        yield _shown(settings, GROUP, option, value)


def _backends(settings: Settings, registry: Registry) -> Iterator[Shown]:
    """The options of each configured instance, and of each enabled backend without a section."""
    classes = {}
    for scheme in registry.enabled:
        try:
            cls = registry.declaration(scheme)
        except ImageBrokerError:
            continue  # `imagebroker check` says why
        classes[cls.name] = cls
    written = [section for section in settings.sections() if section.name in classes]
    named = {section.name for section in written}
    alone = [Section(name, None) for name in classes if name not in named]
    for section in sorted({*written, *alone}, key=lambda each: each.group):
        cls = classes[section.name]
        for option in [*backend_options(cls.require_checksum), *cls.options]:
            try:
                options = settings.backend(section, [option], cls.require_checksum)
                value = options[option.dest]
            except ConfigError as error:
                value = f"(invalid: {error})"
            yield _shown(settings, section.group, option, value)


def _shown(settings: Settings, group: str, option: cfg.Opt, value: Any) -> Shown:
    if option.secret and value:
        value = HIDDEN
    elif isinstance(value, str):
        value = redact(value)
    elif isinstance(value, list):
        value = [redact(each) if isinstance(each, str) else each for each in value]
    line = settings.line(group, option.dest)
    return Shown(group, option.dest, value, str(line) if line else "default")
