"""A hash that need not go over long runs of zeros again when the same bytes are read back.

The state (midstate) behind such a run is kept, and the digest of all that comes before it. Bytes
that lead from one to the other are those that were hashed, as surely as those that lead to the
digest of the whole; zeros are told by comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from imagebroker.backends.backend import Buffer
from imagebroker.transfer.ranges import Range, gaps
from imagebroker.transfer.store.sparse import filled, is_zero

#: Shorter runs of zeros are hashed again. A run begins and ends where blocks of a file do.
_WORTH_IT = 1024 * 1024
#: The most runs that are kept, at less than a KiB each: in an image of 16 GiB, all there can be.
_MAX_RUNS = 16384


class _Zeros(NamedTuple):
    """A run of zeros: the digest of what comes before it, and the state behind it."""

    start: int
    stop: int
    before: bytes
    behind: Any


class Midstates:
    """Used like a hash of `hashlib`; then it tells whether other bytes are those it was fed."""

    def __init__(self, hasher: Any) -> None:
        """`hasher`: fresh, from `hashlib`."""
        self._fresh, self._hasher = hasher.copy(), hasher
        self._runs: list[_Zeros] = []
        self._size = 0
        # Where the zeros begin that the last byte belongs to, and the digest of what comes before.
        self._begun: tuple[int, bytes] | None = None

    def update(self, chunk: Buffer, /) -> None:
        view, position = memoryview(chunk), 0
        for begin, end in self._zeros(view):
            if position < begin or self._begun is None:
                self._data(view[position:begin])
                self._begun = self._size, self._hasher.digest()
            self._hash(view[begin:end])
            position = end
        if position < len(view):
            self._data(view[position:])

    def _zeros(self, view: memoryview) -> list[Range]:
        """Its runs of zeros that are long enough, or may be with what comes before or after."""
        size = len(view)
        return [
            (begin, end)
            for begin, end in gaps(filled(view, self._size), size)
            if end - begin >= _WORTH_IT or begin == 0 or end == size
        ]

    def _data(self, view: memoryview) -> None:
        self._end_zeros()
        self._hash(view)

    def _hash(self, view: memoryview) -> None:
        self._hasher.update(view)
        self._size += len(view)

    def _end_zeros(self) -> None:
        if self._begun is None:
            return
        (start, before), self._begun = self._begun, None
        if self._size - start >= _WORTH_IT and len(self._runs) < _MAX_RUNS:
            self._runs.append(_Zeros(start, self._size, before, self._hasher.copy()))

    def digest(self) -> bytes:
        digest: bytes = self._hasher.digest()
        return digest

    def hexdigest(self) -> str:
        return self.digest().hex()

    def matches(self, read: Callable[[int, int], Iterable[Buffer]]) -> bool:
        """Whether all of `read(start, stop)`, called for one range after the other, is what was
        hashed. Nothing more can be fed afterwards."""
        self._end_zeros()
        hasher, position = self._fresh.copy(), 0
        for run in (*self._runs, _Zeros(self._size, self._size, self.digest(), self._hasher)):
            for chunk in read(position, run.start):
                hasher.update(chunk)
            if hasher.digest() != run.before:
                return False
            if not all(is_zero(memoryview(chunk)) for chunk in read(run.start, run.stop)):
                return False
            hasher, position = run.behind.copy(), run.stop
        return True
