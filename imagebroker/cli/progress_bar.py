"""A bar on a terminal, drawn by rich, which is imported with this module."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich import progress as rich
from rich.console import Console as Terminal
from rich.console import RenderableType
from rich.table import Column
from rich.text import Text

from imagebroker.cli.output import size_text
from imagebroker.cli.progress import Display
from imagebroker.cli.safe_text import below

if TYPE_CHECKING:
    from imagebroker.transfer.limits import Progress

#: The widest that is shown: `1,023.9/1,024.0 MiB`, `1023.9 MiB/s` and `12:00:00`.
_SIZES, _RATE, _TIME = 19, 12, 8
_SHORTEST_TITLE = 10
_LONGEST_BAR = 40
#: What the phases are called where there is nothing to show of the transfer yet.
_DOING = {"connect": "connecting", "wait": "waiting", "verify": "verifying"}


class Bar(Display):
    """From the first report to the end of the transfer; always one line."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: OneLine | None = None
        self._task = rich.TaskID(0)
        self.callback = self.update

    def update(self, progress: Progress) -> None:
        try:
            if self._bar is None:
                self._bar = OneLine(Terminal(file=below(sys.stderr)))
                self._bar.said = self._without_bar(progress)
                self._task = self._bar.add_task(self._title, total=None, rate="")
                self._bar.start()
            what = self._title if progress.phase == "transfer" else progress.phase
            rate = f"{size_text(progress.rate)}/s" if progress.done else ""
            self._bar.said = self._without_bar(progress)
            self._bar.update(
                self._task, description=what, completed=progress.done, total=progress.total,
                rate=rate,
            )  # fmt: skip
            self._bar.refresh()
        except OSError:
            pass  # the terminal is gone: the transfer goes on

    def _without_bar(self, progress: Progress) -> str:
        """The text instead of the bar, if that says more."""
        if progress.reason:
            done = f"{size_text(progress.done)} so far, " if progress.done else ""
            return f"{self._title}: {done}trying again ({progress.retries}): {progress.reason}"
        if not progress.done and progress.phase in _DOING:
            return f"{self._title}: {_DOING[progress.phase]}"
        return ""

    def close(self) -> None:
        if self._bar is not None:
            try:
                self._bar.stop()
            except OSError:
                pass  # see above
            self._bar = None


class OneLine(rich.Progress):
    """A bar, or a sentence, that never takes more than a line of the terminal."""

    def __init__(self, terminal: Terminal) -> None:
        #: Shown instead of the bar.
        self.said = ""
        super().__init__(
            *_columns(terminal.width),
            console=terminal,
            auto_refresh=False,  # reports are frequent enough, and need no thread
            transient=True,
            redirect_stdout=False,  # the image may be written to it
        )

    def get_renderables(self) -> Iterable[RenderableType]:
        if self.said:
            yield Text(self.said, no_wrap=True, overflow="ellipsis")
        else:
            yield from super().get_renderables()


def _columns(width: int) -> list[rich.ProgressColumn]:
    """The columns for which there is room, each as a whole: the most important ones first."""
    left = width - _SIZES
    title = min(left - 1, _SHORTEST_TITLE)
    left -= title + 1
    has_rate = left > _RATE
    left -= (_RATE + 1) * has_rate
    bar = _bar_length(width) if left > _bar_length(width) else 0
    left -= (bar + 1) * bool(bar)
    has_time = left > _TIME
    left -= (_TIME + 1) * has_time
    shown: list[rich.ProgressColumn] = []
    if title >= _SHORTEST_TITLE:
        column = Column(no_wrap=True, overflow="ellipsis", max_width=title + left)
        shown.append(rich.TextColumn("{task.description}", markup=False, table_column=column))
    if bar:
        shown.append(rich.BarColumn(bar, table_column=_whole()))
    shown.append(rich.DownloadColumn(binary_units=True, table_column=_whole()))
    if has_rate:
        shown.append(rich.TextColumn("{task.fields[rate]}", table_column=_whole()))
    if has_time:
        shown.append(rich.TimeRemainingColumn(table_column=_whole()))
    return shown


def _bar_length(width: int) -> int:
    return _LONGEST_BAR if width >= 100 else _LONGEST_BAR // 2 if width >= 76 else 10


def _whole() -> Column:
    return Column(no_wrap=True, overflow="crop")
