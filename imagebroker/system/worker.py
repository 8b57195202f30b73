"""A thread that works through what it is handed, in order, and keeps the first error."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from imagebroker.system.exhaustion import started
from imagebroker.system.forks import Condition, Thread

T = TypeVar("T")


class Worker(Generic[T]):
    """Calls `work` with each item, in a thread that starts when it is worth its while.

    What `work` raises is raised by the next `add` or `wait`. After that items are not worked on any
    more, until `drop`. Where no thread can be started, `add` does the work.

    Items are pushed to it; a `Flow` pulls them from an iterator, and a `Handover` has no thread.
    """

    def __init__(
        self,
        work: Callable[[T], object],
        name: str,
        *,
        size: Callable[[T], int] = lambda item: 1,
        backlog: float = float("inf"),
        inline: int = 0,
        done: Callable[[T], object] | None = None,
    ) -> None:
        """`add` waits while more than `backlog`, in units of `size`, is not done yet.

        `inline`: what comes first, up to this size, is worked on by `add`: it needs no thread.
        `done` is called with each item in the end, also if it was not worked on.
        """
        self._work, self._done, self._size = work, done, size
        self._name, self._backlog, self._inline = name, backlog, inline
        #: Held whenever items are added, finished or dropped; notified after that.
        self.changed = Condition()
        self._waiting: deque[T] = deque()
        self._current: deque[T] = deque()
        self._held = 0
        self._thread: Thread | None = None
        self._closing = False
        #: What `work` raised.
        self.failed: Exception | None = None

    def add(self, item: T) -> None:
        """Work on it, soon. :raises: what `work` raised."""
        size = self._size(item)
        if self._thread is None and not self._is_started(size):
            self._try(item)
            if self._done is not None:
                self._done(item)
            self.check()
            return
        with self.changed:
            while self._held > self._backlog:
                self.changed.wait()
            self.check()
            self._waiting.append(item)
            self._held += size
            self.changed.notify_all()

    def _is_started(self, size: int) -> bool:
        self._inline -= size
        if self._inline < 0:
            self._thread = started(self._run, self._name)
        return self._thread is not None

    def check(self) -> None:
        """:raises: what `work` raised."""
        if self.failed is not None:
            raise self.failed

    def pending(self) -> list[T]:
        """The items that are not done yet."""
        with self.changed:
            return [*self._current, *self._waiting]

    def _run(self) -> None:
        while True:
            with self.changed:
                self._finish(self._current)
                while not self._waiting and not self._closing:
                    self.changed.wait()
                if not self._waiting:
                    return
                item = self._waiting.popleft()
                self._current.append(item)
            self._try(item)
            del item

    def _try(self, item: T) -> None:
        try:
            if self.failed is None:
                self._work(item)
        except Exception as error:
            self.failed = error

    def _finish(self, items: deque[T]) -> None:
        for item in items:
            self._held -= self._size(item)
            if self._done is not None:
                self._done(item)
        items.clear()
        self.changed.notify_all()

    def wait(self) -> None:
        """Until everything that was added is done. :raises: what `work` raised."""
        with self.changed:
            while self._waiting or self._current:
                self.changed.wait()
            self.check()

    def drop(self) -> None:
        """Drop the queued work, wait for the running one, and forget its error."""
        with self.changed:
            self._finish(self._waiting)
            while self._current:
                self.changed.wait()
            self.failed = None

    def close(self) -> None:
        """End the thread; queued work is dropped. Nothing is added after that."""
        with self.changed:
            self._closing = True
            self._finish(self._waiting)
        if self._thread is not None:
            self._thread.join()
        # They may hold what holds this, which would wait for the garbage collector then.
        self._work, self._done = _refuse, None


def _refuse(item: object) -> None:
    raise RuntimeError("it was added after close")
