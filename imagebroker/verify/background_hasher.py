"""Hashes chunks in a background thread, while the next ones are received and written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from imagebroker.backends.backend import Buffer
from imagebroker.system.exhaustion import started
from imagebroker.system.forks import Condition, Thread

#: Maximum number of bytes that wait for the thread.
_BACKLOG = 8 * 1024 * 1024
#: Below this many bytes a thread costs more than it saves.
_INLINE = 1024 * 1024


class BackgroundHasher:
    """Passes chunks to `consume`, in order, in a thread of its own.

    hashlib releases the GIL, so hashing takes no extra time as long as it is faster than the
    source. Chunks must not be modified after they were fed. An exception of `consume` is raised by
    the next `feed` or `wait`.
    """

    def __init__(self, consume: Callable[[Buffer], Any]) -> None:
        self._consume = consume
        self._backlog: deque[Buffer] = deque()
        self._waiting = self._inline = 0
        self._changed = Condition()
        self._thread: Thread | None = None
        self._stopping = False
        self._failed: Exception | None = None

    def feed(self, chunk: Buffer) -> None:
        if self._thread is None:
            self._inline += len(chunk)
            if self._inline <= _INLINE:
                self._consume(chunk)
                return
            self._thread = started(self._run, "imagebroker-hash")
            if self._thread is None:
                self._consume(chunk)
                return
        with self._changed:
            while self._waiting > _BACKLOG:
                self._changed.wait()
            self._raise_what_failed()
            self._backlog.append(chunk)
            self._waiting += len(chunk)
            self._changed.notify_all()

    def _raise_what_failed(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._backlog and not self._stopping:
                    self._changed.wait()
                if not self._backlog:
                    return
                batch = list(self._backlog)
                self._backlog.clear()
            for chunk in batch:
                self._take(chunk)

    def _take(self, chunk: Buffer) -> None:
        """After a failure, chunks are only counted, so that `feed` and `wait` return."""
        try:
            if self._failed is None:
                self._consume(chunk)
        except Exception as error:
            self._failed = error
        with self._changed:
            self._waiting -= len(chunk)
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until `consume` has processed everything that was fed."""
        with self._changed:
            while self._waiting:
                self._changed.wait()
            self._raise_what_failed()

    def close(self) -> None:
        """End the thread; chunks that still wait are dropped."""
        with self._changed:
            self._stopping = True
            self._waiting -= sum(map(len, self._backlog))
            self._backlog.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
