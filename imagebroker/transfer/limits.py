"""The limits of one transfer, and the watch that enforces them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic, sleep
from typing import Any, Protocol

from imagebroker.backends.backend import Buffer
from imagebroker.backends.opened_source import Flow
from imagebroker.config.tuning import DEFAULT, Tuning
from imagebroker.exceptions import Cancelled, ImageBrokerError, TransferTimeout
from imagebroker.system.forks import Process


class Cancel(Protocol):
    """Anything like `threading.Event`."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True)
class Rules:
    """The limits of one transfer; from the configuration, overridden by the call."""

    max_size: int
    deadline: float
    stall_timeout: float
    min_rate: int
    retries: int
    retry_backoff: float
    allow_unknown_size: bool = False
    allow_empty: bool = False
    #: Bytes a second; None: as fast as it goes.
    rate_limit: int | None = None
    max_compression_ratio: int = 1000


@dataclass(frozen=True)
class Progress:
    """How a transfer fares; what a caller's `progress` is called with."""

    #: "connect", "transfer", "wait" (before a retry, or for another transfer of the same image),
    #: "verify", "convert" or "done".
    phase: str
    #: Bytes that are there.
    done: int
    #: Bytes in all, None if unknown.
    total: int | None
    #: Bytes a second that arrived in this call; those of an earlier one do not count.
    rate: float
    #: The ref that is being read.
    location: str | None
    #: Attempts that failed so far.
    retries: int
    #: Why the last attempt failed, until further bytes arrive.
    reason: str | None = None


#: Seconds between two checks whether the caller wants to cancel, and of the deadline.
_POLL_INTERVAL = 0.1


class Watch:
    """Waits on behalf of one transfer: every wait of it ends, and its caller is kept informed."""

    def __init__(
        self,
        rules: Rules,
        progress: Callable[[Progress], Any] | None = None,
        cancel: Cancel | None = None,
        tuning: Tuning = DEFAULT,
    ) -> None:
        self.rules = rules
        self._tuning = tuning
        self._progress = progress
        self._cancel = cancel
        self._process = Process()
        self.started = monotonic()
        self._ends = self.started + rules.deadline
        self._reported = -1.0
        self.done = 0
        #: Bytes of `done` that an earlier call stored.
        self.taken_up = 0
        self._reason: str | None = None
        self._failed_at = 0
        self.total: int | None = None
        self.location: str | None = None
        #: Attempts that failed.
        self.retries = 0
        self._waited = 0.0
        self._arrived = 0
        #: When what has arrived so far would have arrived at the rate limit.
        self._due = 0.0

    def aside(self, *, max_size: int, seconds: float) -> Watch:
        """A watch over something else that this transfer needs, which ends no later than it."""
        rules = replace(
            self.rules, max_size=max_size, deadline=min(seconds, max(self.left, 0.0)),
            allow_unknown_size=True, allow_empty=True,
        )  # fmt: skip
        return Watch(rules, cancel=self._cancel, tuning=self._tuning)

    def afterwards(self, total: int) -> Watch:
        """A watch over what is done with the bytes when they are here: for the same caller, with
        the same deadline, and progress from 0 to `total`."""
        watch = Watch(self.rules, self._progress, self._cancel, self._tuning)
        watch._ends, watch.total, watch.location = self._ends, total, self.location
        return watch

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._ends - monotonic()

    @property
    def seconds(self) -> float:
        return monotonic() - self.started

    def report(self, phase: str, *, always: bool = False) -> None:
        """Tell the caller, at most ten times a second; what its callback raises ends the call."""
        now = monotonic()
        due = always or now - self._reported >= self._tuning.progress_every
        if self._progress is None or not due:
            return
        self._reported = now
        arrived = max(self.done - self.taken_up, 0)
        rate = arrived / max(now - self.started, 1e-6)
        reason = self._reason if self.done <= self._failed_at else None
        self._progress(
            Progress(phase, self.done, self.total, rate, self.location, self.retries, reason)
        )
        self._process.check("the transfer")

    def check(self) -> None:
        """:raises Cancelled, TransferTimeout: the caller or the deadline ends the transfer."""
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled("the transfer was cancelled by its caller")
        self._process.check("the transfer")
        if self.left <= 0:
            raise TransferTimeout(
                f"the transfer did not end within its deadline of {self.rules.deadline:.10g} s",
                hint="raise deadline if the image is large or the network slow",
                retryable=False,
            )

    def begin(self) -> None:
        """A new attempt: its rate is measured afresh."""
        self._waited, self._arrived = 0.0, 0

    def next_batch(self, flow: Flow) -> list[Buffer] | None:
        """The chunks that have arrived, None at the end.

        Only time spent waiting counts as stall: a slow destination is no fault of the peer.

        :raises TransferTimeout: nothing came, or less than the minimum rate, for too long.
        """
        quiet = 0.0
        while True:
            self.check()
            self.report("transfer")
            before = monotonic()
            batch = flow.take(min(_POLL_INTERVAL, max(self.left, 0.0)))
            passed = monotonic() - before
            quiet += passed
            if batch is None:
                return None
            if not batch and quiet >= self.rules.stall_timeout:
                raise self.stalled()
            arrived = sum(map(len, batch))
            self.count(arrived, passed)
            if batch:
                return batch

    def pace(self, arrived: int) -> None:
        """Wait as long as so many further bytes take at the rate limit.

        The peer is held back by what stays unread. Bytes that came late are not caught up with.
        """
        limit = self.rules.rate_limit
        if limit is None or not arrived:
            return
        self._due = max(self._due, monotonic() - _POLL_INTERVAL) + arrived / limit
        while (left := self._due - monotonic()) > 0:
            self.check()
            self.report("transfer")
            sleep(min(left, _POLL_INTERVAL, max(self.left, 0.0)))

    def stalled(self, location: str | None = None) -> TransferTimeout:
        return TransferTimeout(
            f"{location or self.location} sent nothing for {self.rules.stall_timeout:.3g} s",
            hint="check the server and the network; stall_timeout sets the limit",
        )

    def count(self, arrived: int, waited: float) -> None:
        """Count bytes that arrived, and the seconds that were spent waiting for them.

        :raises TransferTimeout: less than the minimum rate over the last `stall_timeout` seconds.
        """
        self._arrived, self._waited = self._arrived + arrived, self._waited + waited
        limit = self.rules.stall_timeout
        if self._waited < limit:
            return
        if self._arrived < self.rules.min_rate * self._waited:
            raise TransferTimeout(
                f"{self.location} sent {self._arrived} bytes in {self._waited:.3g} s, "
                f"less than {self.rules.min_rate} a second",
                hint="min_rate sets the limit",
            )
        self.begin()

    def pause(self, seconds: float, error: ImageBrokerError) -> None:
        """Wait before the next attempt; `error` is why there is one."""
        self._reason, self._failed_at = str(error), self.done
        ends = monotonic() + seconds
        while (left := ends - monotonic()) > 0:
            self.check()
            self.report("wait")
            sleep(min(left, _POLL_INTERVAL, max(self.left, 0.0)))
