"""One source that several ranges are read from: how many at once, how fast, how often it broke."""

from __future__ import annotations

from time import monotonic

from imagebroker.backends.opened_source import GRACE, Flow, OpenedSource
from imagebroker.config.tuning import Tuning
from imagebroker.exceptions import Cancelled, TransferError
from imagebroker.system.exhaustion import start
from imagebroker.system.forks import Condition, Thread
from imagebroker.transfer.fetch.candidates import Candidate
from imagebroker.transfer.fetch.retry import Retries
from imagebroker.transfer.limits import Watch

#: By so much more connections must raise the throughput to be kept.
_GAIN = 1.15
#: So many times as many connections are tried at once: each step costs a round trip or two.
_STEP = 4
#: Seconds until more are tried again after they did not help, and how they grow.
_FIRST_REST, _REST = 2.0, 4.0
#: Seconds after which ranges that have not begun to arrive are not waited for.
_SETTLE = 1.0
#: A measurement takes so many round trips at least.
_ROUND_TRIPS = 2


class RangeRead:
    """One range of one source, on its way."""

    def __init__(
        self, source: RangeSource, flow: Flow, position: int, stop: int, *, endless: bool = False
    ) -> None:
        """`endless`: the request has no end; it is cut where the range stops."""
        self.source, self.flow = source, flow
        self.position, self.stop, self.endless = position, stop, endless
        self.began = monotonic()
        #: When the last byte came.
        self.heard = self.began
        #: When the first one came; None if none did.
        self.answered: float | None = None
        self.received = 0

    @property
    def rest(self) -> int:
        return self.stop - self.position

    def rate(self, now: float) -> float:
        """Bytes a second since the first byte."""
        if self.answered is None:
            return 0.0
        return self.received / max(now - self.answered, 1e-3)

    def count(self, size: int, now: float) -> None:
        self.position += size
        self.received += size
        self.source.received += size
        self.heard = now
        if self.answered is None:
            self.answered = now
            self.source.answered_after(now - self.began)


class RangeSource:
    """An open candidate, and what its reads show of it.

    One read at a time is the rule. More are tried while this side waits for bytes, and kept while
    each step raises the throughput; a step that does not is taken back.
    """

    def __init__(
        self,
        candidate: Candidate,
        opened: OpenedSource,
        tuning: Tuning,
        retries: Retries,
        wanted: int = 1,
    ) -> None:
        self.candidate, self.opened, self._tuning = candidate, opened, tuning
        self.retries = retries
        #: More than one range at once needs a proof that all are of one version.
        self.most = opened.parallel_reads if opened.image.version is not None else 1
        self.wanted = min(wanted, self.most)
        self.reads: list[RangeRead] = []
        #: Bytes that it has sent.
        self.received = 0
        #: It is left alone until then.
        self.resting_until = 0.0
        #: Seconds from a request to its first byte; the least that was seen.
        self.latency = 0.0
        self._flows: list[Flow] = []
        self._pace = 0.0
        self._measured_from: float | None = None
        self._changed_at = monotonic()
        self._arrived = 0
        self._waited = 0.0
        self._before = 1
        self._best = 0.0
        self._rest = _FIRST_REST
        self._next_try = 0.0

    def read(self, start: int, stop: int, changed: Condition) -> RangeRead:
        self._flows = [flow for flow in self._flows if flow.is_alive()]
        read = RangeRead(self, self.opened.read(start, stop, changed), start, stop)
        return self.add(read)

    def add(self, read: RangeRead) -> RangeRead:
        self._flows.append(read.flow)
        self.reads.append(read)
        return read

    def has_room(self, now: float) -> bool:
        """Whether it should get another range."""
        if len(self.reads) >= self.wanted or now < self.resting_until:
            return False
        alive = sum(flow.is_alive() for flow in self._flows)
        return alive < self.opened.parallel_reads

    def answered_after(self, seconds: float) -> None:
        self.latency = min(self.latency, seconds) if self.latency else seconds

    def pace(self, now: float) -> float:
        """Bytes a second of one read; 0.0 if that is not known yet."""
        rates = [
            read.rate(now)
            for read in self.reads
            if read.answered is not None and now - read.answered > self._tuning.measure
        ]
        if rates:
            self._pace = sum(rates) / len(rates)
        return self._pace

    def broke(self, error_is_service: bool) -> None:
        """A read broke: fewer at once, for a while; for good if the service itself refused."""
        if error_is_service and self.reads:
            self.most = len(self.reads)
        self.wanted = max(1, min(self.wanted, len(self.reads)))
        self._set(self.wanted, monotonic())
        self._next_try = monotonic() + 1.0

    def count(self, arrived: int, waited: float) -> None:
        self._arrived += arrived
        self._waited += waited

    def try_more(self, rate: float) -> None:
        """One read was seen to bring `rate` while this side waited for it."""
        self._best = rate
        self._set(min(_STEP * self.wanted, self.most), monotonic())

    def adapt(self, now: float, *, may_add: bool) -> None:
        """Look at the throughput since the last change, and change the number of reads."""
        if self._measured_from is None:
            begun = all(read.answered is not None for read in self.reads)
            if (begun and len(self.reads) >= self.wanted) or now - self._changed_at > _SETTLE:
                self._measured_from, self._arrived, self._waited = now, 0, 0.0
            return
        passed = now - self._measured_from
        if passed < max(self._tuning.measure, _ROUND_TRIPS * self.latency):
            return
        rate, idle = self._arrived / passed, self._waited > passed / 2
        self._measured_from, self._arrived, self._waited = now, 0, 0.0
        if self.wanted > self._before:
            if rate < self._best * _GAIN:
                self._next_try = now + self._rest
                self._rest *= _REST
                self._set(self._before, now)
                return
            self._before = self.wanted
        self._best = rate
        if may_add and idle and self.wanted < self.most and now >= self._next_try:
            self._set(min(_STEP * self.wanted, self.most), now)

    def _set(self, wanted: int, now: float) -> None:
        self._before = min(self.wanted, wanted)
        self.wanted, self._changed_at, self._measured_from = wanted, now, None


class Opening(Thread):
    """A further candidate, opened while bytes arrive from the first one."""

    def __init__(self, candidate: Candidate, watch: Watch, changed: Condition) -> None:
        super().__init__(name="imagebroker-open")
        self.candidate = candidate
        self._left = watch.left
        self._changed = changed
        self._dropped = False
        self._error: Exception | None = None
        self._source: OpenedSource | None = None
        try:
            start(self)
        except TransferError as error:
            self._error = error

    def run(self) -> None:
        try:
            self._source = self.candidate.open(0, self._left, self._check)
        except Exception as error:
            self._error = error
        with self._changed:
            self._changed.notify_all()

    def _check(self) -> None:
        if self._dropped:
            raise Cancelled("the transfer no longer needs this location")

    @property
    def settled(self) -> bool:
        return not self.is_alive()

    def take(self) -> OpenedSource:
        """The source, once `settled`. :raises: what opening it raised."""
        source, self._source = self._source, None
        if source is None:
            raise self._error or Cancelled("it was taken before")
        return source

    def drop(self) -> None:
        """End it, whether it is open or not."""
        self._dropped = True
        self.join(GRACE)
        if self._source is not None:
            self._source.close()
