"""Which errors are worth another attempt, how many, and how long to wait before it."""

from __future__ import annotations

import random

from imagebroker.exceptions import BackendError, ImageBrokerError, TransferError
from imagebroker.transfer.limits import Rules

#: Bytes that an attempt must bring to give the next ones their full budget again.
_PROGRESS = 64 * 1024
#: Attempts in a row without progress after which the source is opened again. Opening may have the
#: first bytes sent once more, so a connection that breaks now and then is no reason for it.
_FRUITLESS = 2
#: Share of `retry_backoff` that is waited after an attempt that brought bytes.
_AFTER_PROGRESS = 0.1
#: Longest pause between two attempts (seconds), whatever a peer asks for.
_LONGEST_PAUSE = 120.0


class Retries:
    """The budget of one candidate: so many attempts in a row without progress."""

    def __init__(self, rules: Rules) -> None:
        self._most, self._backoff = rules.retries, rules.retry_backoff
        self._failures = self._fruitless = self._furthest = 0

    def allow(self, error: ImageBrokerError, done: int) -> bool:
        """Count a failure that came when `done` bytes were there; False if the budget is used up,
        or another attempt would not help."""
        if not (isinstance(error, (TransferError, BackendError)) and error.retryable):
            return False
        self._fruitless += 1
        if done >= self._furthest + _PROGRESS:
            self._furthest, self._failures, self._fruitless = done, 0, 0
        self._failures += 1
        return self._failures <= self._most

    def begin_at(self, done: int) -> None:
        """`done` bytes are there already, and no progress of this candidate."""
        self._furthest = done

    def for_next(self, done: int) -> None:
        """Another candidate begins with a full budget."""
        self._failures, self._fruitless, self._furthest = 0, 0, done

    @property
    def should_reopen(self) -> bool:
        """Whether the source has failed so often that it is opened again."""
        return self._fruitless >= _FRUITLESS

    def pause(self, error: ImageBrokerError) -> float:
        """Seconds before the next attempt: exponential with jitter, or as the peer asks."""
        if not (self._failures and self._fruitless):
            return self.short_pause(error)
        return self._pause(min(2 ** (self._failures - 1), 16), error)

    def short_pause(self, error: ImageBrokerError) -> float:
        """The same where waiting does not help: after bytes, or when another server is asked."""
        return self._pause(_AFTER_PROGRESS, error)

    def _pause(self, factor: float, error: ImageBrokerError) -> float:
        jitter = 0.5 + random.random() / 2  # noqa: S311 - no secret depends on it
        seconds = float(self._backoff * factor * jitter)
        if error.retry_after is not None:
            seconds = max(seconds, min(error.retry_after, _LONGEST_PAUSE))
        return seconds
