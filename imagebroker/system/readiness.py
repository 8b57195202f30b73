"""Waiting for a file object that is not ready: it is in non-blocking mode, and says so."""

from __future__ import annotations

import select
import time
from typing import Any

#: The first and the longest pause (seconds) before an object is asked again.
_SHORTEST, _LONGEST = 0.001, 0.1


class Stalled(Exception):
    """The object was not ready for too long."""


def is_not_ready(error: OSError) -> bool:
    """Whether an object says with `error` that it is to be asked again."""
    if isinstance(error, (BlockingIOError, InterruptedError)):
        return True
    # Of TLS, by name: importing ssl would cost more than most transfers.
    return type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError")


class Waiting:
    """The time for which an object was not ready."""

    def __init__(self, target: Any, patience: float, *, to_write: bool = False) -> None:
        """`patience`: seconds in a row; `to_write`: not to be read, but to be written."""
        self._target, self._patience, self._to_write = target, patience, to_write
        self._began: float | None = None
        self._pause = _SHORTEST

    def over(self) -> None:
        """It was ready."""
        self._began, self._pause = None, _SHORTEST

    def wait(self) -> None:
        """Until it may be ready.

        :raises Stalled: it was not for too long.
        """
        now = time.monotonic()
        if self._began is None:
            self._began = now
        left = self._began + self._patience - now
        if left <= 0:
            what = "takes" if self._to_write else "has"
            raise Stalled(f"it {what} nothing for {self._patience:.3g} s")
        if not self._asked(left):
            return
        # It says that it is ready, or cannot be asked: not again at once if that is not true.
        time.sleep(min(self._pause, left))
        self._pause = min(2 * self._pause, _LONGEST)

    def _asked(self, seconds: float) -> bool:
        """Wait for its descriptor; True at once where it has none to wait for."""
        try:
            fd = self._target.fileno()
        except (AttributeError, NotImplementedError, OSError, ValueError, TypeError):
            return True
        if isinstance(fd, bool) or not isinstance(fd, int) or fd < 0:
            return True
        if not hasattr(select, "poll"):  # eventlet takes it away
            return fd >= 1024 or any(
                select.select([] if self._to_write else [fd], [fd] if self._to_write else [], [],
                              seconds)
            )  # fmt: skip
        poll = select.poll()
        poll.register(fd, select.POLLOUT if self._to_write else select.POLLIN)
        return bool(poll.poll(int(seconds * 1000) + 1))
