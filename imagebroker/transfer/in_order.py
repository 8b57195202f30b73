"""Checks are fed in order, whatever the order in which the bytes were stored."""

from __future__ import annotations

from imagebroker.backend import Buffer
from imagebroker.transfer.part_file import PartFile
from imagebroker.verify.checks import Checks


class InOrder:
    """Feeds `checks` as far as the stored bytes have no gap; what came early is read back."""

    def __init__(self, part: PartFile, checks: Checks) -> None:
        self._part, self._checks = part, checks
        #: Bytes from the beginning that are stored without a gap, and fed.
        self.position = 0
        #: Stored ranges beyond the first gap: start to stop.
        self._early: dict[int, int] = {}
        self._early_ends: dict[int, int] = {}

    def stored(self, offset: int, chunk: Buffer) -> None:
        """`chunk` was written at `offset`."""
        if offset != self.position:
            self._remember(offset, offset + len(chunk))
            return
        self._checks.feed(chunk)
        self.position += len(chunk)
        while (stop := self._early.pop(self.position, None)) is not None:
            del self._early_ends[stop]
            for piece in self._part.read_back(self.position, stop):
                self._checks.feed(piece)
            self.position = stop

    def _remember(self, start: int, stop: int) -> None:
        """Join with the range that ends where this one begins: lanes write one after the other."""
        before = self._early_ends.pop(start, None)
        if before is not None:
            start = before
        self._early[start] = stop
        self._early_ends[stop] = start
