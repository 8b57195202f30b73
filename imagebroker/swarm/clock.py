"""How long others are waited for, on a machine that may have no time for this process."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic


class Clock:
    """Seconds in which this process could have heard of others. Where it gets its turn late, they
    pass as if it had not: who did not look cannot say that nothing came."""

    def __init__(self, step: float, clock: Callable[[], float] = monotonic) -> None:
        """`step`: between two looks there are no more seconds than this."""
        self._step, self._clock = step, clock
        self._looked, self._now = clock(), 0.0

    def look(self) -> None:
        """It is this process's turn."""
        now = self._clock()
        self._now += min(now - self._looked, self._step)
        self._looked = now

    def __call__(self) -> float:
        return self._now
