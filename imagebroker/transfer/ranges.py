"""Ranges of bytes, half open like slices, and sets of them."""

from __future__ import annotations

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
