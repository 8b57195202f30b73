"""SQLite and forks: delays a fork while one of the process's threads is inside SQLite.

SQLite has mutexes per process and per file. A child that is forked while another thread holds one
can never take it, and a connection that it inherits makes SQLite believe that the child has the
parent's locks. So every call of SQLite happens inside this gate: a fork waits until the gate is
empty, closes the idle connections, and keeps the gate closed until it is done. The child starts
without connections.
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
#: Seconds that a fork waits for transactions, which take milliseconds. After that something is
#: stuck, and the fork goes on anyway.
_TIMEOUT = 30.0


class Connections(Protocol):
    """An object that has connections."""

    def close_idle(self) -> None: ...

    def in_child(self) -> None: ...


class Gate:
    """The threads of this process that are inside SQLite, and the forks that wait for them."""

    def __init__(self) -> None:
        self._all: weakref.WeakSet[Connections] = weakref.WeakSet()
        self._begin()

    def _begin(self) -> None:
        self._changed = threading.Condition()
        #: How many times each thread is inside.
        self._inside: dict[int, int] = {}
        self._forking = 0

    def admit(self, connections: Connections) -> None:
        """Register connections that a fork must close."""
        with self._changed:
            self._all.add(connections)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """A block that can call SQLite; it should be short."""
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
        """Called before a fork. The forking thread may be inside itself, in a signal handler."""
        ends, own = monotonic() + _TIMEOUT, {threading.get_ident()}
        self._changed.acquire()
        self._forking += 1
        while self._inside.keys() - own and monotonic() < ends:
            self._changed.wait(0.1)
        if not self._inside.keys() - own:
            for each in list(self._all):
                each.close_idle()

    def open(self) -> None:
        """Called after a fork, in the parent."""
        self._forking -= 1
        self._changed.notify_all()
        self._changed.release()

    def open_in_child(self) -> None:
        # Start over: a server that forks in C calls only this, maybe while a thread is inside.
        self._begin()
        for each in list(self._all):
            each.in_child()


GATE = Gate()
os.register_at_fork(before=GATE.close, after_in_parent=GATE.open, after_in_child=GATE.open_in_child)


def aside(work: Callable[[], T]) -> T:
    """Run `work()`, in a separate thread if this is the main thread.

    Signal handlers run in the main thread, at any point: one that forks in the middle of a
    transaction would leave the child with a connection that it can neither use nor close.
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
