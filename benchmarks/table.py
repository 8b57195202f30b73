"""The Markdown table, and its place in the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.contest import MOST_MEMORY, OURS, Contender, Goal, Result, Row

BEGIN, END = "<!-- the table of `python -m benchmarks` -->", "<!-- end of the table -->"
HEADER = (
    "| work | who | seconds | imagebroker to it | goal | reached | CPU s | peak MiB |\n"
    "|---|---|---|---|---|---|---|---|"
)


def lines(result: Result) -> Iterator[str]:
    """The lines of one row: one for each contender and for each goal that is no comparison."""
    row = result.row
    title = row.title
    for contender in row.contenders:
        yield _line(result, contender, title)
        title = ""
    for goal in row.goals:
        if goal.beside is None:
            yield _figure(result, goal)


def unmeasured(title: str, problem: str) -> str:
    """The line of a row that could not be prepared."""
    return _cells(title, "", "not measured: " + _plain(problem))


def _line(result: Result, contender: Contender, title: str) -> str:
    name, row = contender.name, result.row
    shown = f"**{name}**" if name.startswith(OURS) else name
    if name in result.problems:
        return _cells(title, shown, "not measured: " + _plain(result.problems[name]))
    seconds = result.median(name, "seconds")
    if seconds is None:
        return _cells(title, shown, "not measured")
    cpu, peak = (result.median(name, figure) for figure in ("cpu", "peak"))
    return _cells(
        title, shown, f"{seconds:.3g}" if seconds < 1 else f"{seconds:.2f}",
        *_ratio(result, row, name), f"{cpu:.2f}", f"{peak:.0f}",
    )  # fmt: skip


def _ratio(result: Result, row: Row, name: str) -> tuple[str, str, str]:
    goals = [goal for goal in row.goals if goal.beside == name]
    for_all = goals or ([] if name.startswith(OURS) else [Goal(0, name)])
    ratios, wanted, verdicts = [], [], []
    for goal in for_all:
        ratio = result.reached(goal)
        several = f" ({goal.ours})" if goal.ours != OURS else ""
        ratios.append("-" if ratio is None else f"{ratio:.2f}{several}")
        if goal.most:
            wanted.append(f"at most {goal.most:.2f}")
            verdicts.append(_verdict(ratio, goal.most))
    return "; ".join(ratios), "; ".join(wanted), "; ".join(verdicts)


def _figure(result: Result, goal: Goal) -> str:
    value = result.reached(goal)
    shown = "not measured" if value is None else f"{value:.3g} {goal.unit}"
    goal_text = f"at most {goal.most:g} {goal.unit}"
    return _cells("", f"**{goal.ours}**", "", shown, goal_text, _verdict(value, goal.most))


def _verdict(value: float | None, most: float) -> str:
    if value is None:
        return "?"
    return "yes" if value <= most else "**no**"


def memory(results: Sequence[Result]) -> str:
    """The largest process of ours in all rows."""
    peaks = [
        (run.peak, result.row.title)
        for result in results
        for each in result.row.contenders
        if each.name.startswith(OURS) and each.clock is None
        for run in result.runs.get(each.name, ())
    ]
    peak, where = max(peaks, default=(float("nan"), ""))
    verdict = _verdict(peak if peaks else None, MOST_MEMORY)
    return _cells(
        "peak memory in every row", f"**{OURS}**", "", f"{peak:.0f} MiB ({where})",
        f"at most {MOST_MEMORY} MiB", verdict,
    )  # fmt: skip


def _cells(*cells: str) -> str:
    return "| " + " | ".join([*cells, *[""] * (8 - len(cells))]) + " |"


def _plain(text: str) -> str:
    return re.sub(r"[|`\r\n]", " ", text)


def put(text: str, page: Path) -> None:
    """Replace what stands between the markers.

    :raises ValueError: the page has no such place.
    """
    before = page.read_text()
    if BEGIN not in before or END not in before:
        raise ValueError(f"{page} has no {BEGIN} ... {END}")
    head, rest = before.split(BEGIN, 1)
    page.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}")
