"""Checks are fed in order, whatever the order in which the bytes were stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from imagebroker.backends.backend import Buffer
from imagebroker.exceptions import TransferError
from imagebroker.system.exhaustion import started
from imagebroker.system.forks import Condition, Thread
from imagebroker.transfer.ranges import Range, Ranges
from imagebroker.transfer.store.storage import Storage

#: Seconds between two checks of the deadline.
_POLL_INTERVAL = 0.1


class Fed(Protocol):
    """A receiver of the bytes in order."""

    def feed(self, chunk: Buffer) -> None: ...


class InOrder:
    """Feeds `checks` as far as the stored bytes have no gap.

    A chunk that arrives in order is passed on directly. One that arrives early is read back when
    its turn comes, in a separate thread, while the writer continues.
    """

    def __init__(self, part: Storage, checks: Fed, position: int = 0) -> None:
        """`position`: bytes that were stored and fed before."""
        self._part, self._checks = part, checks
        #: Bytes from the beginning that are stored without a gap, and fed.
        self.position = position
        self._early = Ranges()
        #: Where the range ends that the thread is reading back.
        self._reading_to = position
        self._changed = Condition()
        self._thread: Thread | None = None
        #: Whether the thread is at it, or has ended.
        self._busy = False
        self._stopping = False
        self._failed: Exception | None = None

    @property
    def early(self) -> list[Range]:
        """Ranges that are stored, and not fed yet."""
        with self._changed:
            position, stop = self.position, self._reading_to
            return [(position, stop), *self._early] if position < stop else list(self._early)

    def has(self, start: int, stop: int) -> None:
        """These bytes are in the part file already. :raises: what feeding earlier ones raised."""
        with self._changed:
            if self._failed is not None:
                raise self._failed
            self._early.add(start, stop)
            self._go_on()

    def stored(self, offset: int, chunk: Buffer) -> None:
        """`chunk` was written at `offset`. :raises: what feeding an earlier one raised."""
        with self._changed:
            if self._failed is not None:
                raise self._failed
            direct = offset == self.position and not self._busy
            if not direct:
                self._early.add(offset, offset + len(chunk))
        if direct:
            self._checks.feed(chunk)
            self.position += len(chunk)
        with self._changed:
            self._go_on()

    def _go_on(self) -> None:
        """Read back the next bytes, if they are stored and not being read already."""
        if not self._busy and not self._stopping and self._early.begins_at(self.position):
            self._busy = True
            self._thread = started(self._catch_up, "imagebroker-read-back")
            if self._thread is None:
                self._catch_up()

    def _catch_up(self) -> None:
        try:
            while (stop := self._next()) is not None:
                for piece in self._part.read_back(self.position, stop):
                    if self._stopping:
                        return  # `early` has the rest
                    self._checks.feed(piece)
                    self.position += len(piece)
        except Exception as error:
            self._failed = error
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _next(self) -> int | None:
        """Where the stored bytes end that begin at `position`; None ends the thread."""
        with self._changed:
            stop = self._early.take(self.position)
            if stop is None:
                self._busy = False
                self._changed.notify_all()
            else:
                self._reading_to = stop
            return stop

    def finish(self, waiting: Callable[[], Any]) -> None:
        """Until everything that was stored has been fed; calls `waiting` every moment.

        :raises: what feeding raised.
        """
        with self._changed:
            while self._busy:
                self._changed.wait(_POLL_INTERVAL)
                waiting()
            if self._failed is not None:
                raise self._failed
            if self._early:
                raise TransferError("the stored bytes have a gap", retryable=False)

    def stop(self) -> None:
        """End the thread, as soon as it has fed what it has read."""
        self._stopping = True
        thread = self._thread
        if thread is not None:
            thread.join()
