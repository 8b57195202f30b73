"""Work on chunks in a thread behind the writes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from imagebroker.backends.backend import Buffer
from imagebroker.system.exhaustion import started
from imagebroker.system.forks import Condition, Thread

#: Bytes that the thread may be behind.
_BACKLOG = 8 * 1024 * 1024
#: Below this many bytes a thread costs more than it saves.
_INLINE = 1024 * 1024


class Behind:
    """Gives chunks to `consume`, in order, while whoever feeds them goes on.

    Hashing lets other threads run while it works, so it costs no time of its own as long as it is
    faster than the source. Fed chunks must not be modified afterwards. What `consume` raises,
    `feed` and `wait` raise.
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
        """After a failure the rest is only counted: whoever feeds must not wait for ever."""
        try:
            if self._failed is None:
                self._consume(chunk)
        except Exception as error:
            self._failed = error
        with self._changed:
            self._waiting -= len(chunk)
            self._changed.notify_all()

    def wait(self) -> None:
        """Until `consume` has had all that was fed so far."""
        with self._changed:
            while self._waiting:
                self._changed.wait()
            self._raise_what_failed()

    def close(self) -> None:
        """End the thread; what is still waiting is dropped."""
        with self._changed:
            self._stopping = True
            self._waiting -= sum(map(len, self._backlog))
            self._backlog.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
