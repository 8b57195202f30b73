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

#: Columns that are left beside the title and the bar: `1023.9/1024.0 MiB 123.4 MiB/s 0:00:00`.
_REST = 44
_SHORTEST_TITLE = 10
#: What the phases are called where there is nothing to show of the transfer yet.
_DOING = {"connect": "connecting", "wait": "waiting", "verify": "verifying"}


class Bar(Display):
    """From the first report to the end of the transfer; always one line."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: _OneLine | None = None
        self._task = rich.TaskID(0)
        self.callback = self.update

    def update(self, progress: Progress) -> None:
        try:
            if self._bar is None:
                self._bar = _OneLine(Terminal(file=below(sys.stderr)))
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
        """What is shown instead of the bar, if that says more."""
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


class _OneLine(rich.Progress):
    """A bar, or a sentence, that never takes more than a line of the terminal."""

    def __init__(self, terminal: Terminal) -> None:
        #: Shown instead of the bar.
        self.said = ""
        width = terminal.width
        bar = 40 if width >= 100 else 20
        title = Column(
            no_wrap=True, overflow="ellipsis", max_width=max(width - _REST - bar, _SHORTEST_TITLE)
        )
        super().__init__(
            rich.TextColumn("{task.description}", markup=False, table_column=title),
            rich.BarColumn(bar, table_column=_whole()),
            rich.DownloadColumn(binary_units=True, table_column=_whole()),
            rich.TextColumn("{task.fields[rate]}", table_column=_whole()),
            rich.TimeRemainingColumn(table_column=_whole()),
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


def _whole() -> Column:
    return Column(no_wrap=True, overflow="crop")
