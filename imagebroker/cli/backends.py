"""`imagebroker backends`: what is installed, and whether it works."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, cast

from imagebroker.cli.app import Application
from imagebroker.cli.command import ListCommand
from imagebroker.cli.loaded_config import load
from imagebroker.cli.output import Cell
from imagebroker.registry import Registry


class Backends(ListCommand):
    """List the installed backends, what they can do, and what is wrong with them.

    A plugin that is not enabled is not imported: only its metadata is shown. Also works with a
    broken config file. Damaged distributions come last, without a scheme.
    """

    column_names = (
        "scheme", "distribution", "version", "capabilities", "enabled", "problem", "remedy"
    )  # fmt: skip

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        app = cast(Application, self.app)
        loaded = load(app.config_file, app.is_personal)
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
