"""Several ranges of one source at once, as many as make it faster.

One connection is the rule. More are added only while they raise the throughput, which is so where
a server or a path limits each connection, and given up where they do not. Bytes come out in the
order of their arrival; whoever stores them must be able to write anywhere.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic

from imagebroker.backend import Buffer
from imagebroker.boundary import Flow, OpenedSource
from imagebroker.exceptions import (
    BackendError,
    ImageBrokerError,
    RangeIgnored,
    TransferError,
)
from imagebroker.transfer.rules import Watch

LOG = logging.getLogger(__name__)

#: Bytes that must be missing to make a second connection worth its while.
WORTH_IT = 16 * 1024 * 1024
#: Seconds over which the throughput is measured before and after a change.
MEASURE = 0.15
#: By so much more lanes must raise the throughput to be kept.
_GAIN = 1.15
#: Seconds between two looks at the deadline.
_MOMENT = 0.05
_SMALLEST, _LARGEST = 1024 * 1024, 32 * 1024 * 1024
#: Seconds until more lanes are tried again after they did not help; grows by this factor too.
_REST = 4.0

Range = tuple[int, int]


@dataclass
class _Lane:
    flow: Flow
    position: int
    stop: int
    heard: float


class Lanes:
    """The missing ranges of one source. Iterate it for `(offset, chunk)`.

    When it raises, `missing` holds what was not handed out.
    """

    def __init__(
        self,
        source: OpenedSource,
        missing: list[Range],
        watch: Watch,
        changed: threading.Condition,
    ) -> None:
        """`changed` is what all reads of this source notify."""
        self._source, self._watch, self._changed = source, watch, changed
        #: Ranges that no lane has taken, in order.
        self._waiting = list(missing)
        self._lanes: list[_Lane] = []
        self._flows: list[Flow] = []
        self._most = source.parallel_reads
        self._wanted = 1
        self._measured_from = monotonic()
        self._arrived = 0
        self._best = 0.0
        self._tried = False
        self._rest = MEASURE
        self._next_try = 0.0

    def adopt(self, flow: Flow) -> None:
        """Go on with a read that is under way and covers the first range."""
        start, stop = self._waiting.pop(0)
        self._flows.append(flow)
        self._lanes.append(_Lane(flow, start, stop, monotonic()))

    @property
    def missing(self) -> list[Range]:
        """What was not handed out yet, in order."""
        rest = [(lane.position, lane.stop) for lane in self._lanes if lane.position < lane.stop]
        return sorted(rest + self._waiting)

    def __iter__(self) -> Iterator[tuple[int, Buffer]]:
        try:
            while self._lanes or self._waiting:
                self._watch.check()
                self._watch.report("transfer")
                self._fill()
                waited, before = self._wait(), self._watch.done
                for lane in list(self._lanes):
                    yield from self._drain(lane)
                self._watch.count(self._watch.done - before, waited)
                self._adapt()
        finally:
            for lane in self._lanes:
                lane.flow.stop()

    def _wait(self) -> float:
        """Until something arrived, for a moment at most; the seconds that it took."""
        began = monotonic()
        with self._changed:
            if not any(lane.flow.has_news for lane in self._lanes):
                self._changed.wait(_MOMENT)
        return monotonic() - began

    def _drain(self, lane: _Lane) -> Iterator[tuple[int, Buffer]]:
        """What has arrived in one lane; a lane that broke gives its rest back."""
        try:
            batch = lane.flow.take(0.0)
        except (TransferError, BackendError) as error:
            self._broken(lane, error)
            return
        if batch is None:
            self._end(lane)
            return
        if batch:
            lane.heard = monotonic()
        elif monotonic() - lane.heard > self._watch.rules.stall_timeout:
            self._broken(lane, self._watch.stalled())
            return
        for chunk in batch:
            room = lane.stop - lane.position
            piece = chunk if len(chunk) <= room else memoryview(chunk)[:room]
            if len(piece):
                offset, lane.position = lane.position, lane.position + len(piece)
                self._arrived += len(piece)
                self._watch.done += len(piece)
                yield offset, piece
            if lane.position >= lane.stop:
                self._end(lane)  # an open-ended read runs on: it is cut
                return

    def _end(self, lane: _Lane) -> None:
        lane.flow.stop()
        if lane in self._lanes:
            self._lanes.remove(lane)
        if lane.position < lane.stop:
            self._waiting.insert(0, (lane.position, lane.stop))

    def _broken(self, lane: _Lane, error: ImageBrokerError) -> None:
        """One lane less; if it was the last, or will not work, the transfer's error."""
        self._end(lane)
        if not self._lanes or isinstance(error, RangeIgnored) or not error.retryable:
            raise error
        LOG.info("a parallel range failed, going on with %d: %s", len(self._lanes), error)
        self._most = self._wanted = len(self._lanes)

    def _fill(self) -> None:
        """Give ranges to lanes until as many are under way as are wanted."""
        self._flows = [flow for flow in self._flows if flow.is_alive()]
        while len(self._lanes) < self._wanted and len(self._flows) < self._source.parallel_reads:
            if not self._waiting and not self._split():
                return
            block = self._block()
            start, stop = self._waiting.pop(0)
            reach = min(start + block, stop)
            if reach < stop:
                self._waiting.insert(0, (reach, stop))
            flow = self._source.read(start, reach, self._changed)
            self._flows.append(flow)
            self._lanes.append(_Lane(flow, start, reach, monotonic()))

    def _split(self) -> bool:
        """Take from the lane that has most before it what it need not fetch itself."""
        lane = max(self._lanes, key=lambda lane: lane.stop - lane.position, default=None)
        if lane is None or lane.stop - lane.position < 2 * _SMALLEST:
            return False
        middle = lane.position + min(self._block(), (lane.stop - lane.position) // 2)
        self._waiting.append((middle, lane.stop))
        lane.stop = middle
        return True

    def _left(self) -> int:
        return sum(stop - start for start, stop in self.missing)

    def _block(self) -> int:
        """Bytes for one request: large, but small enough that all lanes end together."""
        if self._wanted == 1:
            return self._left()
        return max(_SMALLEST, min(_LARGEST, self._left() // (2 * self._wanted)))

    def _adapt(self) -> None:
        """Look at the throughput since the last change, and change the number of lanes."""
        now = monotonic()
        passed = now - self._measured_from
        if passed < MEASURE:
            return
        rate = self._arrived / passed
        self._measured_from, self._arrived = now, 0
        if self._tried:
            self._tried = False
            if rate < self._best * _GAIN:
                self._wanted = max(1, self._wanted // 2)
                self._rest *= _REST
                self._next_try = now + self._rest
                return
        self._best = rate
        if self._wanted < self._most and now >= self._next_try and self._left() > WORTH_IT:
            self._wanted = min(2 * self._wanted, self._most)
            self._tried = True
