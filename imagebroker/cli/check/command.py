"""`imagebroker check`: the command. What it looks for is listed in `checks.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, cast

from imagebroker.cli.app import Application
from imagebroker.cli.check.checks import check
from imagebroker.cli.check.problem import exit_status
from imagebroker.cli.command import ListCommand
from imagebroker.cli.output import Cell


class Check(ListCommand):
    """Look for mistakes in the configuration, and try out what it names.

    Warnings: unknown options and sections, no scheme enabled, files that do not exist, secrets in a
    file that every user can read. Failures: invalid values, schemes whose plugin is missing,
    installed twice or broken, servers that do not answer, directories and files that this user
    cannot access, private keys that every user can read, distributions that overwrite each other.
    Exit status: 0 if no problem was found, 1 after warnings, 2 after failures.
    """

    column_names = ("level", "where", "what", "remedy", "file")

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        app = cast(Application, self.app)
        path = app.config_file
        problems = check(path, app.is_personal)
        self.status = exit_status(problems)
        if not problems:
            self.console.note(
                f"no problems found in {path}" if path
                else "no problems found (no config file: personal defaults)"
            )  # fmt: skip
        rows = [[Cell(getattr(each, name)) for name in self.column_names] for each in problems]
        return self.column_names, rows
