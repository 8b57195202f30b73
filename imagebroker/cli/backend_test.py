"""`imagebroker backend test`: the conformance kit, run on an installed plugin."""

from __future__ import annotations

import argparse
import textwrap
import unittest
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, TextIO

from cliff.formatters.base import ListFormatter

from imagebroker.backends.entry_points import distribution_name, distribution_version, entry_points
from imagebroker.cli.command import ListCommand
from imagebroker.cli.output import Cell
from imagebroker.exceptions import BackendLoadError, SchemeNotEnabled
from imagebroker.redaction import printable
from imagebroker.registry import find_entry_points
from imagebroker.testing.report import FAILED, PASSED, SKIPPED, Report, run

#: Entry points that name the contract test of a scheme.
ENTRY_POINTS = "imagebroker.contracts"
_WIDTH = 96


class BackendTest(ListCommand):
    """Run the conformance kit on an installed backend.

    The backend's distribution must provide a contract test, which tells the kit how to set up the
    backend (entry point group imagebroker.contracts). Exit status: 0 if no clause of the contract
    is broken, else 1.
    """

    column_names = ("result", "clause", "what", "detail", "harm", "seconds")

    @property
    def formatter_default(self) -> str:
        return "report"

    def _load_formatter_plugins(self) -> Any:
        self.formats = {"report": ReportFormatter, **ListCommand.formats}
        return super()._load_formatter_plugins()

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser = super().get_parser(prog_name)
        parser.add_argument("scheme", metavar="SCHEME", help="scheme of the backend's refs")
        parser.add_argument(
            "--only", metavar="PATTERN", default="",
            help="run only tests whose name matches, such as c13 or broker",
        )  # fmt: skip
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Iterable[Sequence[Any]]]:
        contract, origin = contract_of(parsed_args.scheme)
        self.console.note(f"testing {parsed_args.scheme}: {origin}")
        report = run(contract, parsed_args.only, self._tell)
        self.status = 0 if report.good else 1
        if not report.results:
            self.console.note(f"no test matches --only {parsed_args.only!r}")
        rows = [
            [Cell(round(value, 3) if isinstance(value, float) else value) for value in _row(each)]
            for each in _sorted(report)
        ]
        return self.column_names, rows

    def _tell(self, number: int, count: int, clause: str, what: str) -> None:
        """Show which test is running: one can take 20 s."""
        self.console.note(f"{number} of {count}: {clause} {what}")


def _row(result: Any) -> list[Any]:
    return [getattr(result, name) for name in BackendTest.column_names]


def _sorted(report: Report) -> list[Any]:
    """Failures last, so that they stay on the screen."""
    return [*report.of(PASSED), *report.of(SKIPPED), *report.of(FAILED)]


def contract_of(scheme: str) -> tuple[type[unittest.TestCase], str]:
    """The contract test of a scheme, and the distribution that provides it.

    :raises SchemeNotEnabled: no installed distribution provides the scheme.
    :raises BackendLoadError: it has no contract test, or the test cannot be used.
    """
    points = entry_points(ENTRY_POINTS, scheme)
    if not points:
        if scheme not in find_entry_points():
            raise SchemeNotEnabled(
                f"no installed distribution provides the scheme {scheme!r}",
                hint=f"use one of these: {', '.join(sorted(find_entry_points()))}",
            )
        raise BackendLoadError(
            f"the distribution of {scheme!r} provides no contract test",
            hint=f"add an entry point {scheme} = module:Class to the group {ENTRY_POINTS}, as in "
            "what `imagebroker backend new` generates",
        )
    point = next(iter(points))
    names = distribution_name(point), distribution_version(point)
    origin = " ".join(filter(None, names)) or point.value
    try:
        contract = point.load()
    except Exception as error:
        raise BackendLoadError(
            f"the contract test {point.value} of {origin} cannot be imported: "
            f"{type(error).__name__}: {error}",
            hint="install the module that is missing; the kit itself needs: "
            "pip install 'imagebroker[testing]'",
        ) from error
    if not isinstance(contract, type) or not issubclass(contract, unittest.TestCase):
        raise BackendLoadError(
            f"the contract test {point.value} of {origin} is not a test case",
            hint="declare it as: class Contract(BackendContract, testtools.TestCase)",
        )
    return contract, origin


class ReportFormatter(ListFormatter):
    """For a person: what failed and how that harms a user, what was skipped and why."""

    def add_argument_group(self, parser: argparse.ArgumentParser) -> None:
        pass

    def emit_list(
        self,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        rows = [
            dict(zip(BackendTest.column_names, (cell.machine_readable() for cell in row),
                     strict=True))
            for row in data
        ]  # fmt: skip
        writers = ((PASSED, _write_passed), (SKIPPED, _write_skipped), (FAILED, _write_failed))
        for result, write in writers:
            found = [row for row in rows if row["result"] == result]
            if found:
                stdout.write(f"{result}\n")
                write(found, stdout)
                stdout.write("\n")
        counts = {name: sum(row["result"] == name for row in rows) for name in (PASSED, FAILED,
                                                                              SKIPPED)}  # fmt: skip
        stdout.write(", ".join(f"{count} {name}" for name, count in counts.items()) + "\n")


def _write_passed(rows: list[dict[str, Any]], stdout: TextIO) -> None:
    """By clause."""
    for clause, group in groupby(rows, key=lambda row: row["clause"]):
        _write_wrapped(f"{clause:>4}  {'; '.join(row['what'] for row in group)}", stdout, 2)


def _write_skipped(rows: list[dict[str, Any]], stdout: TextIO) -> None:
    """Grouped by reason: one often explains many."""
    rows = sorted(rows, key=lambda row: row["detail"])
    for reason, group in groupby(rows, key=lambda row: row["detail"]):
        members = list(group)
        stdout.write(f"  {printable(reason, 500)}\n")
        for row in members:
            stdout.write(f"    {row['clause']:>4}  {row['what']}\n")


def _write_failed(rows: list[dict[str, Any]], stdout: TextIO) -> None:
    for row in rows:
        stdout.write(f"  {row['clause']:>4}  {row['what']}\n")
        for title, text in (("found", row["detail"]), ("so", row["harm"])):
            if text:
                _write_wrapped(f"{title}: {printable(text, 2000)}", stdout, 8)


def _write_wrapped(text: str, stdout: TextIO, indent: int) -> None:
    lines = textwrap.wrap(
        text, _WIDTH, initial_indent=" " * indent, subsequent_indent=" " * 10, drop_whitespace=True
    )
    stdout.writelines(line + "\n" for line in lines)
