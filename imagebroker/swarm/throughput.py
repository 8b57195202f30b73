"""Whether a swarm is worth while: it should bring more than the backend alone would.

What the backend sends to one host while few read is no measure of that: if all leave, all read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

#: Seconds that are looked at, and of them those in which this host read from the backend, at least.
_WINDOW, _LEAST = 15.0, 3.0
#: The part of the backend's rate below which the swarm is left.
_PART = 0.5


class _Look(NamedTuple):
    at: float
    #: Bytes that are here, from wherever, and of them those that the backend sent.
    there: int
    read: int
    #: Seconds in which this host was reading from the backend, and these times the part of the
    #: hosts that did so.
    reading: float
    shared: float


class Throughput:
    """Compares what arrives with what the backend sent while it was asked for something."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._looks = deque([_Look(clock(), 0, 0, 0.0, 0.0)])

    def note(self, there: int, read: int, *, is_reading: bool, part: float = 1.0) -> None:
        """How much is here, how much of it the backend sent, and whether it is asked for more.

        :param part: of the hosts, this one included, that read from the backend now.
        """
        now, last = self._clock(), self._looks[-1]
        seconds = now - last.at if is_reading else 0.0
        reading, shared = last.reading + seconds, last.shared + seconds * part
        self._looks.append(_Look(now, there, read, reading, shared))
        while self._looks[1].at <= now - _WINDOW:
            self._looks.popleft()

    @property
    def is_slow(self) -> bool:
        """For a while, less came than the backend would have sent to each, had all asked it."""
        first, last = self._looks[0], self._looks[-1]
        seconds, reading = last.at - first.at, last.reading - first.reading
        if seconds < _WINDOW or reading < _LEAST:
            return False
        part = (last.shared - first.shared) / reading
        backend = (last.read - first.read) / reading * part
        return (last.there - first.there) / seconds < _PART * backend
