"""Who reads which chunk from the backend, as far as this host has heard."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from imagebroker.swarm.plan import WHOLE

#: Seconds after which a claim that is not repeated is void, and after which any is.
_SILENT, _LONG = 6.0, 60.0
#: Seconds within which a repeated claim is not passed on again.
_PASSED = 1.5


class Claim(NamedTuple):
    """So many bytes of a chunk were there when this was said."""

    done: int
    by: str
    since: float
    heard: float
    passed: float
    #: That is all of it: it is on its way from host to host.
    whole: bool

    def stands(self, now: float) -> bool:
        silent = WHOLE if self.whole else _SILENT
        return now - self.heard < silent and now - self.since < _LONG


class Claims:
    """Of each chunk the best: of several hosts at one, who has most of it reads on."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._known: dict[int, Claim] = {}
        #: Bytes a second of each host that reads, and when that was heard.
        self._paces: dict[str, tuple[float, float]] = {}

    def heard(
        self, index: int, by: str, done: int, *, whole: bool = False, pace: float = 0.0
    ) -> bool:
        """Note a claim; whether others should hear of it too.

        :param whole: that is all of the chunk. :param pace: bytes a second, as its reader has
            measured; 0: it has not.
        """
        now, old = self._clock(), self._known.get(index)
        if pace:
            self._paces[by] = pace, now
        if old is not None and not old.stands(now) and old.by != by:
            old = None
        if old is not None and old.by != by and (done, by) < (old.done, old.by):
            return False
        same = old if old is not None and old.by == by else None
        news = (
            same is None or whole > same.whole or (done > same.done and now - same.passed > _PASSED)
        )
        since, passed = (now, now) if same is None else (same.since, same.passed)
        self._known[index] = Claim(done, by, since, now, now if news else passed, whole)
        return news

    def released(self, index: int, by: str) -> bool:
        """This host reads it no longer; whether that is news."""
        known = self._known.get(index)
        if known is None or known.by != by or known.whole:
            return False
        del self._known[index]
        return True

    def ended(self, index: int) -> None:
        """It is whole somewhere."""
        self._known.pop(index, None)

    def left(self, by: str) -> None:
        """This host has gone."""
        self._paces.pop(by, None)
        for index in [each for each, claim in self._known.items() if claim.by == by]:
            del self._known[index]

    def paces(self, own: str) -> list[float]:
        """Bytes a second of each host but this one that reads, or has lately: when this was heard
        last of any. Where all others wait for this one, none of them reads."""
        self._paces.pop(own, None)
        last = max((at for _, at in self._paces.values()), default=0.0)
        self._paces = {by: each for by, each in self._paces.items() if last - each[1] < _SILENT}
        return [pace for pace, _ in self._paces.values()]

    def standing(self) -> dict[int, tuple[int, str]]:
        """Bytes and reader of each chunk that is being read, or was lately."""
        now = self._clock()
        return {
            index: (claim.done, claim.by)
            for index, claim in self._known.items()
            if claim.stands(now)
        }

    def reading(self) -> dict[int, tuple[int, str]]:
        """The same without those that have been read."""
        standing = self.standing()
        return {index: standing[index] for index in standing if not self._known[index].whole}
