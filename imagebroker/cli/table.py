"""Tables on a terminal. No word is broken: an id, a ref or a digest can be copied as it stands.

Columns of sentences are wrapped between words, so that the table fits. What still does not fit goes
beyond the edge, where the terminal wraps it without a change.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence

from prettytable import PrettyTable

Cells = Sequence[str]
#: A column that is not wider stays as it is: `20.3 MiB`.
_NARROWEST = 12


def table(names: Cells, rows: Sequence[Cells], width: int | None) -> str:
    """`width`: of the terminal; None: there is none."""
    drawn = PrettyTable(list(names))
    drawn.align = "l"
    widths = None if width is None else _widths([names, *rows], width)
    for row in rows:
        drawn.add_row(list(row if widths is None else map(_wrapped, row, widths)))
    return drawn.get_string()


def terminal_width() -> int:
    return shutil.get_terminal_size().columns


def _widths(rows: Sequence[Cells], width: int) -> list[int]:
    """The widest columns are narrowed first, none to less than its longest word."""
    columns = list(zip(*rows, strict=True))
    widths = [max(len(line) for cell in c for line in cell.split("\n")) for c in columns]
    words = [max(len(word) for cell in c for word in cell.split() or [""]) for c in columns]
    shortest = [max(_NARROWEST, word) for word in words]
    room = width - 3 * len(columns) - 1
    while sum(widths) > room:
        narrower = [at for at, each in enumerate(widths) if each > shortest[at]]
        if not narrower:
            break
        widths[max(narrower, key=lambda at: widths[at])] -= 1
    return widths


def _wrapped(cell: str, width: int) -> str:
    return "\n".join(
        part
        for line in cell.split("\n")
        for part in textwrap.wrap(
            line, max(width, 1), break_long_words=False, break_on_hyphens=False
        ) or [""]
    )  # fmt: skip
