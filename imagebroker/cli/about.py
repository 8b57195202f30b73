"""`imagebroker resolve`, `backends`, `check` and `config sample`: about the installation itself."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, cast

from imagebroker.backends.entry_points import uncache_stevedore
from imagebroker.cli import check
from imagebroker.cli.app import Application
from imagebroker.cli.command import BrokerCommand, ListCommand, ShowCommand
from imagebroker.cli.finding import status
from imagebroker.cli.output import Cell
from imagebroker.registry import Registry


class Resolve(ShowCommand):
    """Show which backend an image belongs to, and why; no network is used."""

    column_names = ("ref", "backend", "distribution", "reason", "capabilities")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("ref", metavar="REF", help="the image")
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[Sequence[str], Sequence[Any]]:
        found = self.broker.resolve(parsed_args.ref)
        values = (
            str(found.ref), found.backend, found.distribution, found.reason, found.capabilities
        )  # fmt: skip
        return self.column_names, [Cell(value) for value in values]


class Backends(ListCommand):
    """List the schemes: who provides them, what they can do, and what is wrong with them.

    Of a plugin that is not enabled only what its metadata says. Works with a broken configuration
    too. Damaged distributions, whatever they are, stand at the end, without a scheme.
    """

    column_names = (
        "scheme", "distribution", "version", "capabilities", "enabled", "problem", "remedy"
    )  # fmt: skip

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        loaded = check.load(cast(Application, self.app).config_file)
        if loaded.error is not None:
            self.status = self.console.error(loaded.error)
        registry = Registry(loaded.settings)
        try:
            backends = registry.describe()
        finally:
            registry.close()
        rows = [[Cell(getattr(each, name)) for name in self.column_names] for each in backends]
        for damage in registry.damaged:
            known = {
                "distribution": damage.distribution,
                "problem": f"{damage.path} {damage.problem}",
                "remedy": damage.remedy,
            }
            rows.append([Cell(known.get(name)) for name in self.column_names])
        return self.column_names, rows


class Check(ListCommand):
    """Look for mistakes in the configuration, and try what it names.

    Warnings: options and sections that nobody reads, nothing enabled, files that do not exist,
    secrets in a file that every user may read. Failures: values that cannot be used, schemes whose
    plugin is missing, doubled or broken, servers that do not answer, directories and files that
    this user may not use, keys that every user may read, distributions that overwrite each other.
    Ends with 0 if all is well, 1 after warnings, 2 after failures.
    """

    column_names = ("level", "where", "what", "remedy", "file")

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        path = cast(Application, self.app).config_file
        findings = check.check(path)
        self.status = status(findings)
        if not findings:
            self.console.note(f"no mistake is found in {path or 'the defaults of a person'}")
        rows = [[Cell(getattr(each, name)) for name in self.column_names] for each in findings]
        return self.column_names, rows


class ConfigSample(BrokerCommand):
    """Print a config file with every option of the core and of the installed backends.

    The same as `oslo-config-generator --namespace imagebroker`.
    """

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from oslo_config import cfg, generator

        uncache_stevedore()
        conf = cfg.ConfigOpts()
        generator.register_cli_opts(conf)
        conf(
            ["--namespace", "imagebroker"], project="imagebroker",
            default_config_files=[], default_config_dirs=[], use_env=False,
        )  # fmt: skip
        generator.generate(conf, output_file=self.app.stdout)
