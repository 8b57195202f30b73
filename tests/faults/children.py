"""Children that are forked in a callback, and the ways in which they leave."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: "worker" lives on for a while, as a daemon would that was started there; "broker" uses the
#: parent's broker; "subprocess" has Python code run between fork and exec.
WAYS = ("sys.exit", "exception", "os._exit", "return", "exec", "subprocess", "worker", "broker")
#: Exit statuses of a child.
LEFT, REFUSED, SUCCEEDED, USELESS = 11, 12, 13, 14
#: The status that each way ends with; a child that returns is refused, or its part was over.
EXPECTED = {
    "sys.exit": {LEFT}, "exception": {LEFT}, "os._exit": {LEFT}, "return": {REFUSED, SUCCEEDED},
    "exec": {0}, "subprocess": {LEFT}, "worker": {LEFT}, "broker": {LEFT},
}  # fmt: skip


class Stray(Exception):
    """Of the child's own code."""


def _is_of_the_child(error: BaseException | None) -> bool:
    """Also where others have taken it for theirs: a signal's handler raises in the midst of them."""
    while error is not None:
        if isinstance(error, (SystemExit, Stray)):
            return True
        error = error.__cause__ or error.__context__
    return False


class Child:
    """The one child of one attempt. Call `strike` wherever it may be forked."""

    def __init__(
        self, way: str, at: int, *, waits: bool, use: Callable[[], object], note: Path
    ) -> None:
        """It is forked at the `at`-th strike (from 0). `waits`: the parent stands still until it is
        over; else both run. `use` works with the broker, and raises where that fails. What goes
        wrong in it, it writes into the file `note`.
        """
        self._note = note
        self._way, self._left, self._waits, self._use = way, at, waits, use
        self.pid: int | None = None
        self.is_here = False
        self._status: int | None = None

    def strike(self, *ignored: Any) -> None:
        if self.pid is not None or self.is_here:
            return
        if self._left:
            self._left -= 1
            return
        pid = os.fork()
        if pid:
            self.pid = pid
            if self._waits:
                self.status(30)
            return
        self.is_here = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the child lives
        self._leave()

    def _leave(self) -> None:
        way = self._way
        if way == "os._exit":
            os._exit(LEFT)
        if way == "exec":
            os.execv("/bin/true", ["true"])
        if way == "subprocess":
            subprocess.run(["/bin/true"], check=True, preexec_fn=lambda: None)
        if way == "worker":
            select.select([], [], [], 0.1)
        if way == "broker":
            try:
                self._use()
            except BaseException:
                self._note.write_text(traceback.format_exc())
                os._exit(USELESS)
        if way == "exception":
            raise Stray
        if way != "return":
            sys.exit(LEFT)

    def ends(self, error: BaseException | None, refused: tuple[type[BaseException], ...]) -> None:
        """In the child, wherever it has come back to: let everything go, and end."""
        status = LEFT if _is_of_the_child(error) else SUCCEEDED
        if isinstance(error, refused):
            status = REFUSED
        elif status != LEFT and error is not None:
            status = USELESS
            self._note.write_text("".join(traceback.format_exception(error)))
        if error is not None:
            error.__traceback__ = None  # and with it the frames, and all that is in them
        try:
            gc.collect()
        finally:
            os._exit(status)

    def status(self, seconds: float) -> int | None:
        """How it ended; None if it had to be killed, because it did not."""
        if self._status is None and self.pid is not None:
            process = os.pidfd_open(self.pid)
            ended = bool(select.select([process], [], [], seconds)[0])
            if not ended:
                signal.pidfd_send_signal(process, signal.SIGKILL)
            os.close(process)
            status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self._status = status if ended else _HUNG
        return None if self._status == _HUNG else self._status


_HUNG = -1000
