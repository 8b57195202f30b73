"""How values are formatted, for people and for programs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

from cliff.columns import FormattableColumn
from cliff.formatters import value as cliff_value
from cliff.formatters.base import ListFormatter, SingleFormatter
from cliff.formatters.commaseparated import CSVLister

from imagebroker.cli.safe_text import safe
from imagebroker.redaction import printable

#: Longest text in one cell: enough for long descriptions, and a bound for a hostile server.
_LONGEST = 64 * 1024


def plain(value: Any) -> Any:
    """`value` as types that JSON and YAML have."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if is_dataclass(value) and not isinstance(value, type):
        return plain({name: getattr(value, name) for name in value.__dataclass_fields__})
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(each) for each in value]
    return str(value)


def readable(value: Any) -> str:
    """`value` for a terminal, without control characters."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return "\n".join(f"{printable(str(k))}={readable(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(readable, value))
    return printable(str(value), _LONGEST)


class Cell(FormattableColumn[Any]):
    """One value of a record."""

    def human_readable(self) -> str:
        return readable(plain(self._value))

    def machine_readable(self) -> Any:
        return plain(self._value)

    def __lt__(self, other: object) -> bool:
        """Unknown values sort last."""
        if not isinstance(other, Cell) or self._value is None:
            return False
        return other._value is None or bool(self._value < other._value)


class SizeCell(Cell):
    """A number of bytes."""

    def human_readable(self) -> str:
        return "" if self._value is None else size_text(self._value)


class RateCell(Cell):
    """Bytes a second."""

    def human_readable(self) -> str:
        return "" if self._value is None else f"{size_text(self._value)}/s"


def size_text(size: float) -> str:
    """`1536` as `1.5 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"


#: Fields that are sizes in bytes.
_SIZES = frozenset({"size", "virtual_size"})


def cell(name: str, value: Any) -> Cell:
    """The cell of the column `name`."""
    if name == "rate":
        return RateCell(value)
    return SizeCell(value) if name in _SIZES else Cell(value)


class TableFormatter(ListFormatter, SingleFormatter):
    """cliff's `table`, without a header if there are no rows.

    cliff's own is imported when a table is printed: it takes 50 ms, for prettytable.
    """

    def add_argument_group(self, parser: argparse.ArgumentParser) -> None:
        """The options of cliff's own."""
        group = parser.add_argument_group("table formatter")
        group.add_argument(
            "--max-width", metavar="<integer>", type=int,
            default=int(os.environ.get("CLIFF_MAX_TERM_WIDTH", 0)),
            help="Maximum display width, <1 to disable. You can also use the CLIFF_MAX_TERM_WIDTH "
            "environment variable, but the parameter takes precedence.",
        )  # fmt: skip
        group.add_argument(
            "--fit-width", action="store_true",
            default=bool(int(os.environ.get("CLIFF_FIT_WIDTH", 0))),
            help="Fit the table to the display width. Implied if --max-width greater than 0. "
            "Set the environment variable CLIFF_FIT_WIDTH=1 to always enable",
        )  # fmt: skip
        group.add_argument(
            "--print-empty", action="store_true",
            help="Print empty table if there is no data to show.",
        )  # fmt: skip

    def emit_list(
        self,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        rows = list(data)
        if rows or parsed_args.print_empty:
            self._emit(column_names, rows, stdout, parsed_args)

    def emit_one(
        self,
        column_names: Sequence[str],
        data: Sequence[Any],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        fields = [[name, each] for name, each in zip(column_names, data, strict=True)]
        self._emit(("Field", "Value"), fields, stdout, parsed_args)

    def _emit(
        self,
        names: Sequence[str],
        rows: Sequence[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        if parsed_args.max_width > 0 or parsed_args.fit_width:  # whatever has to be broken for it
            from cliff.formatters import table as cliff_table

            cliff_table.TableFormatter().emit_list(names, rows, stdout, parsed_args)
            return
        from imagebroker.cli.table import table, terminal_width

        texts = [[_text(value) for value in row] for row in rows]
        width = terminal_width() if stdout.isatty() else None
        stdout.write(f"{table(names, texts, width)}\n")


def _text(value: Any) -> str:
    """One cell of a table."""
    shown = value.human_readable() if isinstance(value, FormattableColumn) else value
    return str(shown).replace("\r\n", "\n").replace("\r", " ")


class CsvFormatter(CSVLister):
    """cliff's `csv`, with control characters escaped inside the fields: it stays valid CSV."""

    def emit_list(
        self,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        rows = ([_safe(value) for value in row] for row in data)
        super().emit_list(column_names, rows, stdout, parsed_args)


def _safe(value: Any) -> Any:
    if isinstance(value, FormattableColumn):
        value = str(value.machine_readable())
    return safe(value) if isinstance(value, str) else value


class ValueFormatter(cliff_value.ValueFormatter):
    """cliff's `value`, with lists as `a,b` and every value on one line."""

    def emit_list(
        self,
        column_names: Sequence[str],
        data: Iterable[Sequence[Any]],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        rows = ([_on_one_line(value) for value in row] for row in data)
        super().emit_list(column_names, rows, stdout, parsed_args)

    def emit_one(
        self,
        column_names: Sequence[str],
        data: Sequence[Any],
        stdout: TextIO,
        parsed_args: argparse.Namespace,
    ) -> None:
        super().emit_one(column_names, [_on_one_line(v) for v in data], stdout, parsed_args)


def _on_one_line(value: Any) -> Any:
    found = value.machine_readable() if isinstance(value, FormattableColumn) else value
    if isinstance(found, Mapping):
        found = [f"{key}={each}" for key, each in found.items()]
    if isinstance(found, list):
        found = ",".join(map(str, found))
    return printable(found, _LONGEST) if isinstance(found, str) else found
