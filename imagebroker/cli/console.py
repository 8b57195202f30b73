"""Standard error of the command: errors, notes and log records, one line each."""

from __future__ import annotations

import errno
import json
import logging
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imagebroker.cli.exit_status import Terminated, exit_status
from imagebroker.cli.safe_text import safe
from imagebroker.exceptions import DestinationError, ImageBrokerError
from imagebroker.redaction import redact

NAME = "imagebroker"
_BUG = "this is a bug in imagebroker: please report it, with what --debug prints"


@dataclass
class Console:
    """Standard error. A command goes on even if it is closed or full."""

    #: Errors as one JSON object each (`-f json`).
    json: bool = False
    quiet: bool = False
    #: Whether to print tracebacks.
    debug: bool = False
    #: The arguments of this process.
    argv: Sequence[str] = ()
    #: Whether standard output was closed when this process started.
    no_output: bool = False
    #: The log file, which gets the errors too; None: there is none.
    log: logging.Handler | None = None

    @property
    def command(self) -> str:
        """This command line, to be copied; not if it contains a secret."""
        line = shlex.join([NAME, *self.argv])
        return line if redact(line, len(line) + 1) == line else "the same command again"

    def write(self, text: str) -> None:
        """Write text, with control characters escaped.

        `sys.stderr` is looked up at each call, since a progress bar replaces it for a while.
        """
        if sys.stderr is None:
            return  # print() would use standard output instead
        try:
            print(safe(text), file=sys.stderr, flush=True)
        except (OSError, ValueError):
            pass  # closed, or its terminal went away

    def note(self, text: str) -> None:
        """Write something good to know; not with `-q`."""
        if not self.quiet:
            self.write(f"{NAME}: {text}")

    def error(self, error: BaseException) -> int:
        """Write what happened and what to do about it; returns the exit status."""
        status = exit_status(error)
        if isinstance(error, DestinationError) and error.errno == errno.EPIPE:
            return status  # the reader of our output has closed the pipe, as `head` does
        if self.debug and not isinstance(error, KeyboardInterrupt):
            self._trace(error)
        what, hint = _explain(error)
        self._log(f"{what} [{_id(error)}]", hint)
        if self.json:
            self.write(json.dumps(_as_record(error, what, hint, status)))
        else:
            known = isinstance(error, ImageBrokerError)
            self.write(f"{NAME}: {what} [{_id(error)}]" if known else f"{NAME}: {what}")
            if where := getattr(error, "where", ""):
                self.write(f"  where: {where}")
            if hint:
                self.write(f"  hint: {hint}")
        return status

    def _log(self, what: str, hint: str) -> None:
        if self.log is None:
            return
        text = "; ".join(filter(None, [what, hint and f"hint: {hint}"]))
        record = logging.LogRecord(NAME, logging.ERROR, __file__, 0, text, (), None)
        self.log.handle(record)

    def _trace(self, error: BaseException) -> None:
        for line in "".join(traceback.format_exception(error)).splitlines():
            # Messages of libraries are not redacted yet.
            self.write(redact(line))


def unprintable(error: OSError) -> DestinationError:
    """The error for a failed write to standard output."""
    return DestinationError.wrap(error, "cannot write to standard output")


def _explain(error: BaseException) -> tuple[str, str]:
    """An error and its hint."""
    if isinstance(error, ImageBrokerError):
        return "; ".join([str(error), *getattr(error, "__notes__", ())]), error.hint
    if isinstance(error, KeyboardInterrupt):
        what = "terminated" if isinstance(error, Terminated) else "interrupted"
        return what, getattr(error, "hint", "")
    if isinstance(error, MemoryError):
        return "out of memory", ""
    return redact(f"unexpected {type(error).__name__}: {error}"), _BUG


def _id(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "terminated" if isinstance(error, Terminated) else "interrupted"
    return getattr(error, "id", "") if isinstance(error, ImageBrokerError) else "unexpected"


def _as_record(error: BaseException, what: str, hint: str, status: int) -> dict[str, Any]:
    return {
        "id": _id(error),
        "class": type(error).__name__,
        "message": what,
        "where": getattr(error, "where", "") or None,
        "option": getattr(error, "option", "") or None,
        "hint": hint or None,
        "retryable": getattr(error, "retryable", False),
        "exit_status": status,
    }


class LogLines(logging.Handler):
    """Log records as lines on the console, redacted: libraries log whole URLs."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # a broken format string must not suppress the record
            text = f"{record.msg!r} {record.args!r}"
        level = record.levelname.lower()
        self._console.write(redact(f"{NAME}: {level}: {text}"))
        if self._console.debug and record.exc_info and record.exc_info[1] is not None:
            self._console._trace(record.exc_info[1])
