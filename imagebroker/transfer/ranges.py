"""Ranges of bytes, half open like slices, and sets of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]

#: Where an image of unknown size stops.
ENDLESS = 1 << 62


def length(ranges: Iterable[Range]) -> int:
    return sum(stop - start for start, stop in ranges)


def gaps(stored: Iterable[Range], size: int) -> list[Range]:
    """The missing ranges of `size` bytes, in order."""
    found, position = [], 0
    for start, stop in sorted(stored):
        if start > position:
            found.append((position, start))
        position = max(position, stop)
    if position < size:
        found.append((position, size))
    return found


class Ranges:
    """Ranges that grow at their ends and join where they meet."""

    def __init__(self) -> None:
        self._stops: dict[int, int] = {}
        self._starts: dict[int, int] = {}

    def add(self, start: int, stop: int) -> None:
        """`start` to `stop`, which overlaps none of those that are there."""
        if start == stop:
            return
        if (before := self._starts.pop(start, None)) is not None:
            start = before
        if (after := self._stops.pop(stop, None)) is not None:
            del self._starts[after]
            stop = after
        self._stops[start] = stop
        self._starts[stop] = start

    def begins_at(self, start: int) -> bool:
        return start in self._stops

    def __bool__(self) -> bool:
        return bool(self._stops)

    def take(self, start: int) -> int | None:
        """Remove the range that begins at `start`; where it stopped."""
        stop = self._stops.pop(start, None)
        if stop is not None:
            del self._starts[stop]
        return stop

    def __iter__(self) -> Iterator[Range]:
        return iter(sorted(self._stops.items()))


class Extents:
    """Ranges that may overlap, and what lies between them. A thread may look while one adds."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        # Where they start and stop, in turn.
        self._edges: list[int] = []
        for start, stop in ranges:
            self.add(start, stop)

    def add(self, start: int, stop: int) -> None:
        edges = self._edges
        first, last = bisect_left(edges, start), bisect_right(edges, stop)
        edges[first:last] = [start] * (first % 2 == 0) + [stop] * (last % 2 == 0)

    def gaps(self, start: int, stop: int) -> list[Range]:
        """What none of them covers between `start` and `stop`, in order."""
        if start >= stop:
            return []
        edges = self._edges.copy()
        first, last = bisect_right(edges, start), bisect_left(edges, stop)
        found = [start] * (first % 2 == 0) + edges[first:last] + [stop] * (last % 2 == 0)
        return list(zip(found[::2], found[1::2], strict=True))
