"""One call to a plugin, running in a thread of its own, and what it inherits from its caller."""

from __future__ import annotations

import _thread
import contextvars
import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from imagebroker.backends.backend import BackendHost
from imagebroker.redaction import Secrets
from imagebroker.system import request_ids
from imagebroker.system.exhaustion import no_thread
from imagebroker.system.forks import (
    START_TIMEOUT,
    Process,
)
from imagebroker.system.request_ids import RequestIds

if TYPE_CHECKING:
    from imagebroker.backends.backend import Context

T = TypeVar("T")

#: Seconds between two checks whether to go on waiting for a call.
_POLL_INTERVAL = 0.1


class ThreadContext:
    """The context that a thread inherits from its caller's, for the logs and spans of a plugin."""

    def __init__(
        self,
        context: Context = None,
        secrets: Secrets | None = None,
        ids: RequestIds | None = None,
    ) -> None:
        """`ids`: where to collect the ids of requests; by default, in the list of this call."""
        self._context = context
        self._secrets = secrets or Secrets()
        with request_ids.collected(request_ids.of_call() if ids is None else ids):
            self._variables = contextvars.copy_context()

    def run(self, call: Callable[[], T]) -> T:
        """Run `call()` with the caller's context variables, and its request id in oslo.log."""
        store = getattr(self._context, "update_store", None)
        if store is not None:
            store()  # oslo.log reads it per thread
        return self._variables.run(self._concealing, call)

    def _concealing(self, call: Callable[[], T]) -> T:
        with self._secrets.hidden(), request_ids.in_thread():
            return call()


class RunningCall:
    """One running call. Either its result is taken, or it is abandoned; never both.

    It uses `_thread`, not `threading.Thread`, whose `start` waits until the thread runs: that would
    double the cost of a short call.
    """

    def __init__(
        self,
        call: Callable[[], Any],
        release: Callable[[int], None],
        late: Callable[[Any], None] = lambda answer: None,
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """`release` is called at the end of the thread, with its id; `late` gets a result that
        comes too late; `ended` is called when there is a result.
        """
        self._function, self._release = call, release
        self._late, self._ended = late, ended
        self._lock = threading.Lock()
        self._running = threading.Lock()
        self.finished = self._begun = self._abandoned = False
        self._answer: Any = None
        self._error: BaseException | None = None
        self.thread = 0
        self._begins = 0.0
        self._process = Process()

    def start(self) -> None:
        self._running.acquire()
        self._begins = monotonic() + START_TIMEOUT
        self.thread = _thread.start_new_thread(self._run, ())

    def wait(self, seconds: float, waiting: Callable[[], Any] | None = None) -> bool:
        """Whether it ended in time."""
        ends = monotonic() + seconds
        while not self._running.acquire(timeout=max(min(seconds, _POLL_INTERVAL), 0.0)):
            self._process.check("the call")  # in a child, the thread does not exist
            seconds = ends - monotonic()
            if seconds <= 0:
                return False
            self._check_begun()
            if waiting is not None:
                waiting()
        return True

    @property
    def has_begun(self) -> bool:
        return self._begun

    def has_finished(self) -> bool:
        """:raises TransferError: it never will: its thread did not start."""
        if not self.finished:
            self._check_begun()
        return self.finished

    def _check_begun(self) -> None:
        if not self._begun and monotonic() > self._begins:
            raise no_thread()  # it died at once, for lack of memory

    def _run(self) -> None:
        self._begun = True
        try:
            self._answer = self._function()
        except BaseException as error:
            self._error = error
        with self._lock:
            self.finished = True
            abandoned = self._abandoned
        try:
            if abandoned and self._error is None:
                self._late(self._answer)
        finally:
            self._release(_thread.get_ident())
            self._running.release()
            self._ended()

    def abandon(self, host: BackendHost) -> bool:
        """Give up waiting. False if the result has come in the meantime, and must be taken."""
        with self._lock:
            if self.finished:
                return False
            self._abandoned = True
            host.cut_off(self.thread)  # before its end: after that, its id may be reused
        return True

    @property
    def succeeded(self) -> bool:
        """Whether there is a result."""
        return self.finished and self._error is None

    def answer(self) -> Any:
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # breaks the reference cycle between the traceback and this frame
        return self._answer
