"""Runs an iterator of a plugin in a thread of its own, one step at a time, with timeouts."""

from __future__ import annotations

import _thread
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, Generic, TypeVar

from imagebroker.system import request_ids
from imagebroker.system.forks import Process

LOG = logging.getLogger(__name__)
T = TypeVar("T")

#: Seconds between two checks whether to go on waiting for a step.
_POLL_INTERVAL = 0.1
#: Seconds that the iterator has to close.
_GRACE = 2.0


class Late(Exception):
    """A step took too long. There are no more steps."""


class Steps(Generic[T]):
    """The steps of an iterator, each with a timeout.

    All run in one thread, which sleeps in between: nothing is read before it is needed. The thread
    ends with the iterator, with `close`, or when this object is garbage-collected.
    """

    def __init__(
        self,
        make: Callable[[], Iterator[T]],
        run: Callable[[Callable[[], None]], Any],
        cut_off: Callable[[int], None],
        release: Callable[[int], None],
    ) -> None:
        """`make` and all steps run within `run`; nothing runs yet.

        :param cut_off: called with the id of a thread whose step is given up.
        :param release: called in that thread at its end, with its id.
        """
        self._work: _Work[T] = _Work(make, run, cut_off, release)
        weakref.finalize(self, self._work.stop).atexit = False

    def start(self) -> None:
        """Start to create the iterator, as the first step for `wait` and `take`."""
        self._work.start()

    def wait(self, seconds: float, waiting: Callable[[], Any] | None = None) -> None:
        """Wait until the next step is done; `waiting` is called repeatedly, and may raise.

        :raises Late: it took too long.
        """
        self._work.step(seconds, waiting)

    def take(self) -> T:
        """The result of the step.

        :raises StopIteration: there are no more; or what the iterator raised.
        """
        answer: T = self._work.take()
        return answer

    def close(self) -> None:
        """End it; waits a moment until the iterator has closed."""
        self._work.stop()
        self._work.wait()


class _Work(Generic[T]):
    """State shared by the thread and its caller. The thread knows nothing of `Steps`."""

    def __init__(
        self,
        make: Callable[[], Iterator[T]],
        run: Callable[[Callable[[], None]], Any],
        cut_off: Callable[[int], None],
        release: Callable[[int], None],
    ) -> None:
        self._make, self._run, self._cut_off, self._release = make, run, cut_off, release
        # Reentrant: the garbage collector may call `stop` at any point.
        self._lock = threading.RLock()
        self._wanted, self._ready, self._ended = (_thread.allocate_lock() for _ in range(3))
        self._busy = self._stopped = self._late = False
        self._answer: Any = None
        self._error: BaseException | None = None
        self._thread = 0
        self._process = Process()

    def start(self) -> None:
        for lock in (self._wanted, self._ready, self._ended):
            lock.acquire()
        try:
            self._thread = _thread.start_new_thread(self._live, ())
        except BaseException:
            self._stopped = True
            self._ended.release()
            raise

    def step(self, seconds: float, waiting: Callable[[], Any] | None) -> None:
        self._process.check("this list")
        with self._lock:
            if self._stopped:
                self._error = Late() if self._late else StopIteration()
                return
            self._busy = True
            self._wanted.release()
        try:
            self._wait(monotonic() + seconds, waiting)
        except BaseException:
            self.stop()
            raise

    def take(self) -> Any:
        answer, error = self._answer, self._error
        self._answer = self._error = None
        if error is not None:
            try:
                raise error
            finally:
                del error  # breaks the reference cycle between the traceback and this frame
        return answer

    def _wait(self, ends: float, waiting: Callable[[], Any] | None) -> None:
        while not self._ready.acquire(timeout=max(min(ends - monotonic(), _POLL_INTERVAL), 0.0)):
            self._process.check("this list")  # in a child, the thread does not exist
            if monotonic() >= ends and self._give_up():
                raise Late
            if waiting is not None:
                waiting()

    def _give_up(self) -> bool:
        """Give up a step; False if its result has come in the meantime."""
        with self._lock:
            if not self._busy:
                return False
            self._stopped = self._late = True
            self._cut_off(self._thread)
            return True

    def stop(self) -> None:
        """End the thread: now if it sleeps, else as soon as possible; can be called anywhere."""
        if not self._process.is_current:
            return  # the thread belongs to the parent
        with self._lock:
            if not self._give_up() and not self._stopped:
                self._stopped = True
                if self._thread:
                    self._wanted.release()

    def wait(self) -> None:
        """Wait a moment for the iterator to close, unless it is stuck."""
        if self._late or not self._thread or not self._process.is_current:
            return
        if self._ended.acquire(timeout=_GRACE):
            self._ended.release()
        else:
            LOG.warning("an iterator of a backend is still running after it was closed")

    def _live(self) -> None:
        try:
            self._run(self._serve)
        finally:
            self._release(_thread.get_ident())
            self._ended.release()

    def _serve(self) -> None:
        answers: Iterator[T] | None = None
        while self._wanted.acquire() and not self._stopped:
            try:
                if answers is None:
                    answers = self._make()
                else:
                    self._answer = next(answers)
            except BaseException as error:
                request_ids.name(error)
                self._error = error
            with self._lock:
                self._busy = False
                self._stopped = self._stopped or self._error is not None
                self._ready.release()
            if self._stopped:
                break
        _close(answers)


def _close(answers: Any) -> None:
    close = getattr(answers, "close", None)
    if close is None:
        return
    try:
        close()
    except BaseException as error:
        LOG.warning("closing an iterator of a backend failed: %s", type(error).__name__)
