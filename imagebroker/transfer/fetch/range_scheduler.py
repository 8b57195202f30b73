"""Several ranges at once: of one source, as many as make it faster, and of several sources.

Bytes come out in the order of their arrival; whoever stores them must be able to write anywhere.
Ranges are handed out in the order in which they lie, each as long as its source takes a second or
two for it, so that what arrives early is still in the page cache when its turn comes to be hashed.
At the end, whoever has nothing left takes from the slowest what that one would need longer for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from time import monotonic

from imagebroker.backends.backend import Buffer
from imagebroker.backends.boundary import Flow
from imagebroker.exceptions import BackendError, ImageBrokerError, RangeIgnored, TransferError
from imagebroker.model.image import Image
from imagebroker.redaction import redact
from imagebroker.system.forks import Condition
from imagebroker.transfer.fetch.candidates import Place
from imagebroker.transfer.fetch.range_source import Lane, Opening, Supplier
from imagebroker.transfer.limits import Watch
from imagebroker.transfer.ranges import Range, length

LOG = logging.getLogger(__name__)

#: Bytes that must be missing to make a second connection to a source worth its while: the first one
#: is cut then, and what was on its way there is lost.
WORTH_IT = 64 * 1024 * 1024
#: Seconds between two looks at the deadline.
_MOMENT = 0.05
_SMALLEST, _LARGEST = 1024 * 1024, 64 * 1024 * 1024
#: Bytes of a range for a source whose pace nobody knows yet.
_UNKNOWN = 8 * 1024 * 1024
#: Seconds that one range should take, and round trips: what lies between two ranges costs one.
_SECONDS_PER_RANGE, _ROUND_TRIPS_PER_RANGE = 1.0, 30
#: Seconds that a lane must need for its rest to have some of it taken away.
_WORTH_TAKING = 0.2
#: Seconds of silence after which another lane may take all that is left of one.
_QUIET = 2.0


class Lanes:
    """The missing ranges of one image. Iterate it for `(offset, chunk)`.

    When it ends or raises, `missing` holds what was not handed out, `main` who would go on with
    it, and `given_up` the places that are not worth another try.
    """

    def __init__(
        self,
        main: Supplier,
        missing: Sequence[Range],
        watch: Watch,
        changed: Condition,
        openings: Sequence[Opening] = (),
    ) -> None:
        """`changed` is what all reads notify; `openings` are further places on their way."""
        self._watch, self._changed = watch, changed
        self._openings = list(openings)
        self.suppliers = [main]
        self.main = main
        self.given_up: list[Place] = []
        #: Bytes that came from each place, by its ref.
        self.served: dict[str, int] = {}
        #: Looks at the image of a further place. :raises ImageBrokerError: it does not belong here.
        self.fits: Callable[[Image], None] = lambda image: None
        #: Ranges that no lane has taken, in order.
        self._waiting = list(missing)

    def adopt(self, flow: Flow, rate: float) -> None:
        """Go on with a read that is under way, at that rate, and covers the first range."""
        start, stop = self._waiting.pop(0)
        lane = self.main.add(Lane(self.main, flow, start, stop, endless=True))
        lane.answered = lane.began
        self.main.try_more(rate)

    @property
    def _lanes(self) -> list[Lane]:
        return [lane for supplier in self.suppliers for lane in supplier.lanes]

    @property
    def missing(self) -> list[Range]:
        """What was not handed out yet, in order."""
        rest = [(lane.position, lane.stop) for lane in self._lanes if lane.rest]
        return sorted(rest + self._waiting)

    def __iter__(self) -> Iterator[tuple[int, Buffer]]:
        try:
            while self._lanes or self._waiting:
                self._watch.check()
                self._watch.report("transfer")
                self._join()
                self._fill()
                waited, before = self._wait(), self._watch.done
                for lane in self._lanes:
                    yield from self._drain(lane)
                arrived = self._watch.done - before
                self._watch.count(arrived, waited)
                self._watch.pace(arrived)
                self._adapt(waited)
        finally:
            for lane in self._lanes:
                lane.flow.stop()
            for opening in self._openings:
                opening.drop()

    # -- who delivers ----------------------------------------------------------------------------

    def _join(self) -> None:
        """Take in the places that have been opened meanwhile."""
        for opening in [each for each in self._openings if each.settled]:
            self._openings.remove(opening)
            try:
                source = opening.take()
            except ImageBrokerError as error:
                self._give_up(opening.place, error)
                continue
            try:
                self.fits(source.image)
                if not source.seekable:
                    raise RangeIgnored(f"{source.image.ref}: it cannot begin in the middle")
            except ImageBrokerError as error:
                source.close()
                self._give_up(opening.place, error)
                continue
            self.suppliers.append(Supplier(opening.place, source))

    def _give_up(self, place: Place, error: ImageBrokerError) -> None:
        LOG.warning("the location %s failed, going on without it: %s", redact(place.ref), error)
        self.given_up.append(place)

    def _wait(self) -> float:
        """Until something arrived, for a moment at most; the seconds that it took."""
        began = monotonic()
        with self._changed:
            if not any(lane.flow.has_news for lane in self._lanes):
                self._changed.wait(_MOMENT)
        return monotonic() - began

    def _drain(self, lane: Lane) -> Iterator[tuple[int, Buffer]]:
        """What has arrived in one lane; a lane that broke gives its rest back."""
        supplier = lane.supplier
        if lane not in supplier.lanes:
            return  # it was ended while others were looked at
        try:
            batch = lane.flow.take(0.0)
        except (TransferError, BackendError) as error:
            self._broken(lane, error)
            return
        except ImageBrokerError:
            self.main = supplier
            raise
        if batch is None:
            self._end(lane)
            return
        now = monotonic()
        if not batch:
            if now - lane.heard > self._watch.rules.stall_timeout:
                self._broken(lane, self._watch.stalled(supplier.place.ref))
            return
        ref = supplier.place.ref
        for chunk in batch:
            piece = chunk if len(chunk) <= lane.rest else memoryview(chunk)[: lane.rest]
            size = len(piece)
            if size:
                offset = lane.position
                lane.count(size, now)
                supplier.count(size, 0.0)
                self.served[ref] = self.served.get(ref, 0) + size
                self._watch.done += size
                yield offset, piece
            if not lane.rest:
                self._end(lane)  # it may run on: it is cut
                return

    def _end(self, lane: Lane) -> None:
        lane.flow.stop()
        if lane in lane.supplier.lanes:
            lane.supplier.lanes.remove(lane)
        if lane.rest:
            self._waiting.insert(0, (lane.position, lane.stop))
            self._waiting.sort()

    def _broken(self, lane: Lane, error: ImageBrokerError) -> None:
        """One lane less; if nobody else delivers, or nobody could, the transfer's error."""
        supplier = lane.supplier
        self._end(lane)
        if supplier.lanes and error.retryable and not isinstance(error, RangeIgnored):
            LOG.info("a parallel range failed, going on with %d: %s", len(supplier.lanes), error)
            supplier.broke(isinstance(error, BackendError))
            return
        self.main = supplier
        if len(self.suppliers) == 1:
            raise error
        supplier.failures = 1 if lane.received else supplier.failures + 1
        used_up = supplier.failures > self._watch.rules.retries
        if isinstance(error, RangeIgnored) or not error.retryable or used_up:
            self.suppliers.remove(supplier)
            for each in list(supplier.lanes):
                supplier.lanes.remove(each)
                each.flow.stop()
                self._waiting = sorted([*self._waiting, (each.position, each.stop)])
            supplier.source.close()
            self._give_up(supplier.place, error)
            self.main = self.suppliers[0]
            return
        LOG.info("%s broke, others go on: %s", redact(supplier.place.ref), error)
        supplier.broke(False)
        in_a_row = 0 if lane.received else supplier.failures
        supplier.resting_until = monotonic() + self._watch.backoff(in_a_row, error)
        self._watch.retries += 1

    # -- who reads what --------------------------------------------------------------------------

    def _fill(self) -> None:
        """Give ranges to lanes until as many are under way as are wanted."""
        now = monotonic()
        if self._at_most_one():
            if self._waiting and not self._lanes and self.main.has_room(now):
                self.main.read(*self._waiting.pop(0), self._changed)
            return
        self._shorten_endless(now)
        for supplier in self.suppliers:
            while supplier.has_room(now):
                found = self._next(supplier, now)
                if found is None:
                    break
                supplier.read(*found, self._changed)

    def _at_most_one(self) -> bool:
        """Whether one lane is all that is wanted, and likely to remain so."""
        return len(self.suppliers) == 1 and not self._openings and self.main.wanted == 1

    def _shorten_endless(self, now: float) -> None:
        """A lane that runs to the end leaves the rest to the others, once there are others."""
        if len(self.suppliers) == 1 and self.main.wanted == 1:
            return
        for lane in self._lanes:
            size = self._size_for(lane.supplier, now)
            if lane.endless and lane.rest > 2 * size:
                self._waiting = sorted([*self._waiting, (lane.position + size, lane.stop)])
                lane.stop, lane.endless = lane.position + size, False

    def _next(self, supplier: Supplier, now: float) -> Range | None:
        """The next range for this supplier, None if all are taken."""
        if not self._waiting:
            return self._take_over(supplier, now)
        size = self._size_for(supplier, now)
        start, stop = self._waiting.pop(0)
        reach = min(start + size, stop)
        if stop - reach < size // 4:
            reach = stop
        if reach < stop:
            self._waiting.insert(0, (reach, stop))
        return start, reach

    def _size_for(self, supplier: Supplier, now: float) -> int:
        """Bytes of one range: large, but small enough that all lanes end together."""
        pace, latency = supplier.pace(now), supplier.latency
        seconds = max(_SECONDS_PER_RANGE, _ROUND_TRIPS_PER_RANGE * latency)
        usual = pace * seconds if pace else _UNKNOWN
        lanes = sum(each.wanted for each in self.suppliers) + len(self._openings)
        fair = length(self.missing) / (2 * lanes)
        least = max(_SMALLEST, 4 * pace * latency)
        return int(max(least, min(_LARGEST, usual, fair)))

    def _take_over(self, supplier: Supplier, now: float) -> Range | None:
        """What another lane would need longer for, so that both end together."""

        for each in self._lanes:
            quiet = max(_QUIET, 20 * each.supplier.latency)
            if now - each.heard > quiet and each.supplier is not supplier:
                self._end(each)
                return self._waiting.pop(0)
        answered = [lane for lane in self._lanes if lane.rate(now)]
        if not answered:
            return None
        lane = max(answered, key=lambda lane: lane.rest / lane.rate(now))
        other, latency = lane.rate(now), supplier.latency
        if lane.rest / other < _WORTH_TAKING + 3 * latency:
            return None
        own = supplier.pace(now) or other
        kept = int(other * (lane.rest + own * latency) / (other + own))
        middle = lane.position + max(kept, _SMALLEST)
        if lane.stop - middle < _SMALLEST:
            return None
        found = middle, lane.stop
        lane.stop, lane.endless = middle, False
        return found

    def _adapt(self, waited: float) -> None:
        now = monotonic()
        may_add = length(self.missing) > WORTH_IT
        for supplier in self.suppliers:
            supplier.count(0, waited)
            supplier.adapt(now, may_add=may_add)
