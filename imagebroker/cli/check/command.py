"""`imagebroker check`: the command. What it looks for is listed in `checks.py`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TextIO, cast

from cliff.formatters.base import ListFormatter

from imagebroker.cli.app import Application
from imagebroker.cli.check.checks import check
from imagebroker.cli.check.problem import OK, exit_status
from imagebroker.cli.command import ListCommand
from imagebroker.cli.output import Cell, TableFormatter
from imagebroker.cli.safe_text import safe


class LineFormatter(ListFormatter):
    """`FILE:LINE: LEVEL: WHAT; REMEDY`, as compilers write it."""

    def add_argument_group(self, parser: argparse.ArgumentParser) -> None:
        pass

    def emit_list(
        self,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        for row in data:
            values = dict(zip(column_names, (each.human_readable() for each in row), strict=True))
            place = f"{values['file']}: " if values["file"] else ""
            what = "; ".join(filter(None, (values["what"], values["remedy"])))
            # It may be the file itself, which is said already.
            said = values["where"] and values["file"].startswith(values["where"])
            where = "" if said else f"{values['where']}: "
            stdout.write(safe(f"{place}{values['level']}: {where}{what}") + "\n")


class Check(ListCommand):
    """Look for mistakes in the configuration, and try out what it names.

    Warnings: unknown options and sections, no scheme enabled, files that do not exist, secrets in a
    file that every user can read. Failures: invalid values, schemes whose plugin is missing,
    installed twice or broken, servers that do not answer or refuse the login, directories and files
    that this user cannot access, private keys that every user can read, distributions that
    overwrite each other. Each backend logs in and makes one small request.
    Exit status: 0 if no problem was found, 1 after warnings, 2 after failures.
    """

    formats = {"line": LineFormatter, **ListCommand.formats}
    formatter_default = "line"
    column_names = ("level", "where", "what", "remedy", "file")

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("--offline", action="store_true", help="connect to no server")
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        if parsed_args.columns and parsed_args.formatter == "line":
            parsed_args.formatter = "table"
            self.formatter = TableFormatter()
        app = cast(Application, self.app)
        path = app.config_file
        found = check(path, app.is_personal, offline=parsed_args.offline)
        for each in found:
            if each.level == OK:
                self.console.note(f"{each.where}: {each.what}")
        problems = [each for each in found if each.level != OK]
        self.status = exit_status(problems)
        if not problems:
            self.console.note(
                f"no problems found in {path}" if path
                else "no problems found (no config file: personal defaults)"
            )  # fmt: skip
        if parsed_args.formatter == "line":
            problems = [replace(each, file=each.file or str(path or "")) for each in problems]
        rows = [[Cell(getattr(each, name)) for name in self.column_names] for each in problems]
        return self.column_names, rows
