"""Corrections of unknown words: typing errors of known ones, not just similar words."""

from __future__ import annotations

import re
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """The known words that `word` was probably meant to be, the nearest first.

    A typing error changes a letter in three, swaps two, or runs words together. `--limit-rate` is
    `--rate-limit`, but no `--min-rate`: a wrong suggestion is worse than none.
    """
    near = sorted(
        (away, each)
        for each in dict.fromkeys(known)
        if each != word and (away := _away(word, each)) is not None
    )
    if near:
        return [each for away, each in near if away == near[0][0]][:2]
    begun = [each for each in known if len(_bare(word)) > 2 and each.startswith(word)]
    return begun if len(begun) == 1 else []


def _bare(word: str) -> str:
    return word.lstrip("-")


def _away(word: str, other: str) -> int | None:
    """How many typing errors lie between two words; None if it cannot be one."""
    mine, theirs = re.split("[^a-z0-9]+", word.lower()), re.split("[^a-z0-9]+", other.lower())
    if sorted(mine) == sorted(theirs):
        return 1
    if len(mine) == len(theirs):
        each = [_edits(a, b) for a, b in zip(mine, theirs, strict=True)]
        if all(n <= len(b) // 3 for n, b in zip(each, theirs, strict=True)):
            return sum(each)
    if len(_bare(other)) > 3 and (whole := _edits(word, other)) == 1:
        return whole
    return None


def _edits(a: str, b: str) -> int:
    """Letters to insert, remove, change, or swap with the next one, to make `b` of `a`."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, start=1):
        row = [i]
        for j, y in enumerate(b, start=1):
            best = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (x != y))
            if i > 1 and j > 1 and (x, a[i - 2]) == (b[j - 2], y):
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]
