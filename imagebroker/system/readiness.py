"""Waits for a file object in non-blocking mode that is not ready."""

from __future__ import annotations

import select
import time
from typing import Any

#: The first and the longest pause (seconds) before an object is tried again.
_SHORTEST, _LONGEST = 0.001, 0.1


class Stalled(Exception):
    """The object was not ready for too long."""


def is_not_ready(error: OSError) -> bool:
    """Whether `error` means that the object should be tried again."""
    if isinstance(error, (BlockingIOError, InterruptedError)):
        return True
    # Those of TLS are compared by name: importing ssl takes longer than most transfers.
    return type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError")


class Waiting:
    """Measures and limits how long an object is not ready."""

    def __init__(self, target: Any, patience: float, *, to_write: bool = False) -> None:
        """`patience`: seconds without a pause; `to_write`: wait to write, not to read."""
        self._target, self._patience, self._to_write = target, patience, to_write
        self._began: float | None = None
        self._pause = _SHORTEST

    def over(self) -> None:
        """Call it when the object was ready."""
        self._began, self._pause = None, _SHORTEST

    def wait(self) -> None:
        """Wait until the object may be ready.

        :raises Stalled: it was not ready for too long.
        """
        now = time.monotonic()
        if self._began is None:
            self._began = now
        left = self._began + self._patience - now
        if left <= 0:
            what = "it accepted no data" if self._to_write else "it had no data"
            raise Stalled(f"{what} for {self._patience:.3g} s")
        if not self._asked(left):
            return
        # It claims to be ready, or cannot be polled: pause, in case that is not true.
        time.sleep(min(self._pause, left))
        self._pause = min(2 * self._pause, _LONGEST)

    def _asked(self, seconds: float) -> bool:
        """Poll its descriptor; True at once if it has none."""
        try:
            fd = self._target.fileno()
        except (AttributeError, NotImplementedError, OSError, ValueError, TypeError):
            return True
        if isinstance(fd, bool) or not isinstance(fd, int) or fd < 0:
            return True
        if not hasattr(select, "poll"):  # eventlet removes it
            return fd >= 1024 or any(
                select.select([] if self._to_write else [fd], [fd] if self._to_write else [], [],
                              seconds)
            )  # fmt: skip
        poll = select.poll()
        poll.register(fd, select.POLLOUT if self._to_write else select.POLLIN)
        return bool(poll.poll(int(seconds * 1000) + 1))
