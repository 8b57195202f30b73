"""Progress of a transfer on standard error: a bar, lines, JSON, or nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from imagebroker.cli.console import Console
from imagebroker.cli.output import size_text
from imagebroker.redaction import redact

if TYPE_CHECKING:
    from imagebroker.transfer.limits import Progress

#: Seconds between two lines of `--progress plain`.
_LINE_EVERY = 2.0
#: Seconds between two lines, and before the first, if the user did not ask for lines.
_RARE_LINE_EVERY = 10.0


class Display:
    """Shows nothing. Its subclasses show `update`; it is a context manager."""

    #: Passed to the broker; None if nothing is shown.
    callback: Callable[[Progress], None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was."""


class Lines(Display):
    """A line now and then, for logs and dumb terminals."""

    def __init__(
        self,
        console: Console,
        title: str,
        *,
        rare: bool = False,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`rare`: only often enough to show that a long transfer is alive."""
        self._console, self._title = console, title
        self._rare, self._clock = rare, clock
        self._last = clock() if rare else float("-inf")
        self._phase = ""
        self.callback = self.update

    def update(self, progress: Progress) -> None:
        now = self._clock()
        news = not self._rare and (progress.phase == "done" or progress.phase != self._phase)
        if not news and now - self._last < (_RARE_LINE_EVERY if self._rare else _LINE_EVERY):
            return
        self._last, self._phase = now, progress.phase
        done = size_text(progress.done)
        if progress.total:
            done += f" of {size_text(progress.total)} ({progress.done / progress.total:.0%})"
        rate = f", {size_text(progress.rate)}/s" if progress.done else ""
        retries = f", {progress.retries} retries" if progress.retries else ""
        reason = f": {progress.reason}" if progress.reason else ""
        self._console.write(f"{self._title}: {progress.phase} {done}{rate}{retries}{reason}")


class Objects(Display):
    """One JSON object per line: the fields of `Progress`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.callback = self.update

    def update(self, progress: Progress) -> None:
        location = redact(progress.location) if progress.location else None
        self._console.write(json.dumps(vars(replace(progress, location=location))))


def display(
    mode: str, console: Console, title: str, clock: Callable[[], float] = monotonic
) -> Display:
    """The display for `--progress MODE`; `title` says what is transferred."""
    if mode == "json":
        return Objects(console)
    if mode == "plain":
        return Lines(console, title, clock=clock)
    if mode == "none" or console.quiet or sys.stderr is None:
        return Display()
    if not sys.stderr.isatty():
        return Lines(console, title, rare=True, clock=clock)
    if os.environ.get("TERM", "dumb") == "dumb" or not _rich_is_installed():
        return Lines(console, title, clock=clock)
    from imagebroker.cli.progress_bar import Bar

    return Bar(title)


def _rich_is_installed() -> bool:
    """cliff requires it through cmd2, except for old versions."""
    from importlib.util import find_spec

    return find_spec("rich") is not None


class WatchedFile:
    """A file that is uploaded: reports progress as it is read."""

    def __init__(self, file: Any, report: Callable[[Progress], None]) -> None:
        self._file, self._report = file, report
        self._began = monotonic()
        self._start = self._done = 0
        self._told = float("-inf")
        self._total: int | None = None

    def fileno(self) -> int:
        number: int = self._file.fileno()
        return number

    def read(self, size: int = -1, /) -> bytes | None:
        """None if no data is there yet, for a file in non-blocking mode."""
        chunk: bytes | None = self._file.read(size)
        if chunk is None:
            return None
        self._done += len(chunk)
        now = monotonic()
        if now - self._told >= 0.1 or not chunk:
            self._told = now
            self._report(self._progress("transfer" if chunk else "verify", now))
        return chunk

    def _progress(self, phase: str, now: float) -> Progress:
        from imagebroker.transfer.limits import Progress

        rate = self._done / max(now - self._began, 1e-6)
        return Progress(phase, self._done, self._total, rate, None, 0)

    def tell(self) -> int:
        position: int = self._file.tell()
        return position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        position: int = self._file.seek(offset, whence)
        if whence == os.SEEK_END:
            self._total = position - self._start
        else:
            self._start, self._done = position, 0
        return position
