"""Which errors are worth another attempt, how many, and how long to wait before it."""

from __future__ import annotations

from imagebroker.exceptions import BackendError, ImageBrokerError, TransferError

#: Bytes that an attempt must bring to give the next ones their full budget again.
_PROGRESS = 64 * 1024
#: Attempts in a row without progress after which the source is opened again. Opening may have the
#: first bytes sent once more, so a connection that breaks now and then is no reason for it.
_FRUITLESS = 2


class Retries:
    """The budget of one candidate: so many attempts in a row without progress."""

    def __init__(self, most: int) -> None:
        self._most = most
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
        self._failures, self._furthest = 0, done

    @property
    def should_reopen(self) -> bool:
        """Whether the source has failed so often that it is opened again."""
        return self._fruitless >= _FRUITLESS

    @property
    def in_a_row(self) -> int:
        """Failures to wait for (`Watch.pause`): 0 after an attempt that brought bytes."""
        return self._failures if self._fruitless else 0
