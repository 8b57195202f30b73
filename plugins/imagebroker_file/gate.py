"""SQLite and forks: no process is forked while one of its threads is inside SQLite.

SQLite has mutexes that are not of one connection: of the process, and of each file. A child that is
forked while another thread has one never gets it; and a connection that it inherits makes SQLite
believe that the child has the parent's locks. So whoever calls SQLite is inside the gate, a fork
waits until nobody is, closes the connections that are not in use, and lets nobody in until it is
over. A child begins with none.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol, TypeVar

from imagebroker.plugin import forks

T = TypeVar("T")
#: Seconds that a fork waits for transactions, which take milliseconds, before it goes on all the
#: same: something is stuck then, and so might the fork be for ever.
_PATIENCE = 30.0


class Connections(Protocol):
    """What has connections."""

    def close_idle(self) -> None: ...

    def in_child(self) -> None: ...


class Gate:
    """Threads of this process that are inside SQLite, and forks that wait for them."""

    def __init__(self) -> None:
        self._all: weakref.WeakSet[Connections] = weakref.WeakSet()
        self._begin()

    def _begin(self) -> None:
        self._changed = threading.Condition()
        #: How often each thread is inside.
        self._inside: dict[int, int] = {}
        self._forking = 0

    def admit(self, connections: Connections) -> None:
        """From now on a fork closes these."""
        with self._changed:
            self._all.add(connections)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The block may call SQLite, and shall not take long."""
        process, thread = forks.Process(), threading.get_ident()
        with self._changed:
            while self._forking and thread not in self._inside:
                self._changed.wait()
            self._inside[thread] = self._inside.get(thread, 0) + 1
        try:
            yield
        finally:
            if process.is_current:
                self._leave(thread)

    def _leave(self, thread: int) -> None:
        with self._changed:
            left = self._inside[thread] - 1
            if left:
                self._inside[thread] = left
            else:
                del self._inside[thread]
            self._changed.notify_all()

    def close(self) -> None:
        """Before a fork. The thread that forks may be inside itself, in a signal's handler."""
        ends, own = monotonic() + _PATIENCE, {threading.get_ident()}
        self._changed.acquire()
        self._forking += 1
        while self._inside.keys() - own and monotonic() < ends:
            self._changed.wait(0.1)
        if not self._inside.keys() - own:
            for each in list(self._all):
                each.close_idle()

    def open(self) -> None:
        """After it, in the parent."""
        self._forking -= 1
        self._changed.notify_all()
        self._changed.release()

    def open_in_child(self) -> None:
        # Anew: a server that forks in C calls this alone, and perhaps while a thread is inside.
        self._begin()
        for each in list(self._all):
            each.in_child()


GATE = Gate()
os.register_at_fork(before=GATE.close, after_in_parent=GATE.open, after_in_child=GATE.open_in_child)


def aside(work: Callable[[], T]) -> T:
    """`work()`, in a thread of its own if this is the main one.

    Handlers of signals run in the main thread, wherever it is: one that forks there in the middle
    of a transaction would leave the child a connection that it can neither use nor close.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    process, found = forks.Process(), list[T]()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(work())
        except BaseException as error:
            failed.append(error)

    thread = forks.Thread(target=run, name="imagebroker-store")
    thread.start()
    thread.join()
    process.check("the image store")
    if failed:
        raise failed.pop()
    return found[0]
