"""Several ranges at once: of one source, as many as make it faster, and of several sources.

Bytes come out in the order of their arrival; the destination must accept writes at any position.
Ranges are handed out in the order in which they lie, each as long as its source takes a second or
two for it, so that what arrives early is still in the page cache when its turn comes to be hashed.
At the end, an idle source takes over part of the slowest range if that is faster.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import NamedTuple

from imagebroker.backends.opened_source import Flow, OpenedSource
from imagebroker.config.tuning import Tuning
from imagebroker.exceptions import BackendError, ImageBrokerError, RangeIgnored, TransferError
from imagebroker.model.image import Image
from imagebroker.redaction import redact
from imagebroker.system.forks import Condition
from imagebroker.transfer.fetch.candidates import Candidate
from imagebroker.transfer.fetch.events import Chunk
from imagebroker.transfer.fetch.range_source import Opening, RangeRead, RangeSource
from imagebroker.transfer.fetch.retry import Retries
from imagebroker.transfer.limits import Watch
from imagebroker.transfer.ranges import Range, length

LOG = logging.getLogger(__name__)

#: Seconds between two checks of the deadline.
_POLL_INTERVAL = 0.05
#: Round trips that one range should take: what lies between two ranges costs one.
_ROUND_TRIPS_PER_RANGE = 30
#: Seconds that a read must still need for some of its range to be taken away.
_WORTH_TAKING = 0.2


class Rest(NamedTuple):
    """The rest when several ranges are no longer read at once."""

    #: What was not handed out, in order.
    missing: list[Range]
    #: Who goes on, and with how many connections.
    candidate: Candidate
    opened: OpenedSource
    wanted: int
    #: Further sources that are still open.
    others: list[OpenedSource]
    #: Candidates that are not worth another try.
    given_up: list[Candidate]


class RangeScheduler:
    """The missing ranges of one image. Iterate it; when that ends or raises, ask for the `rest`."""

    def __init__(
        self,
        main: RangeSource,
        missing: Sequence[Range],
        watch: Watch,
        changed: Condition,
        tuning: Tuning,
        openings: Sequence[Opening] = (),
        admit: Callable[[Image], None] = lambda image: None,
    ) -> None:
        """`changed` is what all reads notify; `openings` are further candidates on their way;
        `admit` looks at the image of one, and raises if it does not belong here."""
        self._watch, self._changed, self._tuning = watch, changed, tuning
        self._openings, self._admit = list(openings), admit
        self._sources = [main]
        self._main = main
        self._given_up: list[Candidate] = []
        #: Ranges that are not being read yet, in order.
        self._waiting = list(missing)

    def rest(self) -> Rest:
        main = self._main
        others = [source.opened for source in self._sources if source is not main]
        return Rest(
            self._missing, main.candidate, main.opened, max(main.wanted, 1), others, self._given_up
        )

    def adopt(self, flow: Flow, rate: float) -> None:
        """Go on with a read that is under way, at that rate, and covers the first range."""
        start, stop = self._waiting.pop(0)
        read = self._main.add(RangeRead(self._main, flow, start, stop, endless=True))
        read.answered = read.began
        self._main.try_more(rate)

    @property
    def _reads(self) -> list[RangeRead]:
        return [read for source in self._sources for read in source.reads]

    @property
    def _missing(self) -> list[Range]:
        """The ranges that were not handed out yet, in order."""
        rest = [(read.position, read.stop) for read in self._reads if read.rest]
        return sorted(rest + self._waiting)

    def __iter__(self) -> Iterator[Chunk]:
        try:
            while self._reads or self._waiting:
                self._watch.check()
                self._watch.report("transfer")
                self._join()
                self._fill()
                waited, before = self._wait(), self._watch.done
                for read in self._reads:
                    yield from self._drain(read)
                arrived = self._watch.done - before
                self._watch.count(arrived, waited)
                self._watch.pace(arrived)
                self._adapt(waited)
        finally:
            for read in self._reads:
                read.flow.stop()
            for opening in self._openings:
                opening.drop()

    # -- who sends -------------------------------------------------------------------------------

    def _join(self) -> None:
        """Take in the candidates that have been opened meanwhile."""
        for opening in [each for each in self._openings if each.settled]:
            self._openings.remove(opening)
            try:
                opened = opening.take()
            except ImageBrokerError as error:
                self._give_up(opening.candidate, error)
                continue
            try:
                self._admit(opened.image)
                if not opened.seekable:
                    raise RangeIgnored(f"{opened.image.ref}: it cannot start in the middle")
            except ImageBrokerError as error:
                opened.close()
                self._give_up(opening.candidate, error)
                continue
            self._sources.append(
                RangeSource(opening.candidate, opened, self._tuning, Retries(self._watch.rules))
            )

    def _give_up(self, candidate: Candidate, error: ImageBrokerError) -> None:
        LOG.warning("location %s failed, continuing without it: %s", redact(candidate.ref), error)
        self._given_up.append(candidate)

    def _wait(self) -> float:
        """Until something arrived, for a moment at most; the seconds that it took."""
        began = monotonic()
        with self._changed:
            if not any(read.flow.has_news for read in self._reads):
                self._changed.wait(_POLL_INTERVAL)
        return monotonic() - began

    def _drain(self, read: RangeRead) -> Iterator[Chunk]:
        """The chunks that have arrived in one read; a read that broke gives its rest back."""
        source = read.source
        if read not in source.reads:
            return  # it ended while others were handled
        try:
            batch = read.flow.take(0.0) if read.flow.has_news else []
        except (TransferError, BackendError) as error:
            self._broken(read, error)
            return
        except ImageBrokerError:
            self._main = source
            raise
        if batch is None:
            self._end(read)
            return
        now = monotonic()
        if not batch:
            if now - read.heard > self._watch.rules.stall_timeout:
                self._broken(read, self._watch.stalled(source.candidate.ref))
            return
        for chunk in batch:
            piece = chunk if len(chunk) <= read.rest else memoryview(chunk)[: read.rest]
            size = len(piece)
            if size:
                offset = read.position
                read.count(size, now)
                source.count(size, 0.0)
                self._watch.done += size
                yield Chunk(offset, piece, source.candidate)
            if not read.rest:
                self._end(read)  # it may run on: it is cut
                return

    def _end(self, read: RangeRead) -> None:
        read.flow.stop()
        if read in read.source.reads:
            read.source.pace(monotonic())  # how fast it was is known as long as it is there
            read.source.reads.remove(read)
        if read.rest:
            self._waiting.insert(0, (read.position, read.stop))
            self._waiting.sort()

    def _broken(self, read: RangeRead, error: ImageBrokerError) -> None:
        """End a broken read; raise the transfer's error if no other source can deliver."""
        source = read.source
        self._end(read)
        if source.reads and error.retryable and not isinstance(error, RangeIgnored):
            LOG.warning("a parallel range failed, continuing with %d: %s", len(source.reads), error)
            source.broke(isinstance(error, BackendError))
            return
        self._main = source
        if len(self._sources) == 1:
            raise error
        if isinstance(error, RangeIgnored) or not source.retries.allow(error, source.received):
            self._sources.remove(source)
            for each in list(source.reads):
                source.reads.remove(each)
                each.flow.stop()
                self._waiting = sorted([*self._waiting, (each.position, each.stop)])
            source.opened.close()
            self._give_up(source.candidate, error)
            self._main = self._sources[0]
            return
        LOG.warning("%s failed, continuing without it: %s", redact(source.candidate.ref), error)
        source.broke(False)
        source.resting_until = monotonic() + source.retries.pause(error)
        self._watch.retries += 1

    # -- who reads what --------------------------------------------------------------------------

    def _fill(self) -> None:
        """Give ranges to reads until as many are under way as are wanted."""
        now = monotonic()
        if self._at_most_one():
            if self._waiting and not self._reads and self._main.has_room(now):
                self._main.read(*self._waiting.pop(0), self._changed)
            return
        self._shorten_endless(now)
        for source in self._sources:
            while source.has_room(now):
                found = self._next(source, now)
                if found is None:
                    break
                source.read(*found, self._changed)

    def _at_most_one(self) -> bool:
        """Whether one read is all that is wanted, and likely to remain so."""
        return len(self._sources) == 1 and not self._openings and self._main.wanted == 1

    def _shorten_endless(self, now: float) -> None:
        """A read that runs to the end leaves the rest to the others, once there are others."""
        if len(self._sources) == 1 and self._main.wanted == 1:
            return
        for read in [each for each in self._reads if each.endless]:
            size = self._size_for(read.source, now)
            if read.rest > 2 * size:
                self._waiting = sorted([*self._waiting, (read.position + size, read.stop)])
                read.stop, read.endless = read.position + size, False

    def _next(self, source: RangeSource, now: float) -> Range | None:
        """The next range for this source, None if all are taken."""
        if not self._waiting:
            return self._take_over(source, now)
        size = self._size_for(source, now)
        start, stop = self._waiting.pop(0)
        end = min(start + size, stop)
        if stop - end < size // 4:
            end = stop
        if end < stop:
            self._waiting.insert(0, (end, stop))
        return start, end

    def _size_for(self, source: RangeSource, now: float) -> int:
        """Bytes of one range: large, but small enough that all reads end together."""
        pace, latency = source.pace(now), source.latency
        seconds = max(self._tuning.range_seconds, _ROUND_TRIPS_PER_RANGE * latency)
        usual = pace * seconds if pace else self._tuning.first_range
        reads = sum(each.wanted for each in self._sources) + len(self._openings)
        fair = length(self._missing) / (2 * reads)
        least = max(self._tuning.smallest_range, 4 * pace * latency)
        return int(max(least, min(self._tuning.largest_range, usual, fair)))

    def _take_over(self, source: RangeSource, now: float) -> Range | None:
        """A part of a slower read for `source`: both end together then. None if there is none."""

        for each in self._reads:
            quiet = max(self._tuning.quiet, 20 * each.source.latency)
            if now - each.heard > quiet and each.source is not source:
                self._end(each)
                return self._waiting.pop(0)
        answered = [read for read in self._reads if read.rate(now)]
        if not answered:
            return None
        read = max(answered, key=lambda read: read.rest / read.rate(now))
        other, latency = read.rate(now), source.latency
        if read.rest / other < _WORTH_TAKING + 3 * latency:
            return None
        own = source.pace(now) or other
        kept = int(other * (read.rest + own * latency) / (other + own))
        middle = read.position + max(kept, self._tuning.smallest_range)
        if read.stop - middle < self._tuning.smallest_range:
            return None
        found = middle, read.stop
        read.stop, read.endless = middle, False
        return found

    def _adapt(self, waited: float) -> None:
        now = monotonic()
        may_add = length(self._missing) > self._tuning.parallel_from
        for source in self._sources:
            source.count(0, waited)
            source.adapt(now, may_add=may_add)
