"""Makes a forked child harmless to its parent: it cleans up nothing, and keeps nothing open.

A fork copies every object, and with it every `finally`, `__exit__` and `close`. In the child these
would remove the parent's files, release its locks and shut down its connections. Therefore:

- Code that undoes something outside of memory first asks a `Process` whether it is the same one.
- Descriptors passed to `withhold` are dead in a child. Its copy of a lock or a connection can be
  neither used nor released there, and does not keep it open.
- A child has one thread. `Condition` and `Thread` never wait there for threads that do not exist.
- Objects of other code that clean up in their finalizer are not finalized (`never_finalize`).
"""

from __future__ import annotations

import os
import socket
import stat
import threading
import weakref
from time import monotonic
from typing import Any, Protocol

from imagebroker.exceptions import Cancelled

#: Seconds between two checks whether this process is still the one that began to wait.
_POLL_INTERVAL = 0.25
#: Seconds within which a thread starts to run, even on a busy host.
START_TIMEOUT = 10.0
#: The number of remembered sockets above which closed ones are forgotten.
_MANY = 256


class Process:
    """The process in which this object was created."""

    __slots__ = ("_forks", "_pid")

    def __init__(self) -> None:
        self._pid, self._forks = os.getpid(), _state.forks

    @property
    def is_current(self) -> bool:
        """Whether this is still that process, not a child."""
        # The pid is not enough: in a pid namespace of its own, a child may have the same one.
        return self._pid == os.getpid() and self._forks == _state.forks

    def check(self, what: str) -> None:
        """:raises Cancelled: this is a child of the process that owns `what`."""
        if not self.is_current:
            raise Cancelled(
                f"{what} belongs to process {self._pid}, but this is its child {os.getpid()}",
                hint="start a new call in the child, or end the child with os._exit()",
            )


class Inherited(Protocol):
    """Something that must act in a forked child before anything else does."""

    def in_child(self) -> None: ...


class _State:
    """The state of this process."""

    def __init__(self) -> None:
        #: The number of forks between this process and the first one.
        self.forks = 0
        #: Descriptors that children must not use, with the device and inode of their files.
        self.files: dict[int, tuple[int, int]] = {}
        #: Inodes of sockets that children must not use: TLS wrappers and duplicates have other
        #: descriptors.
        self.sockets: set[int] = set()
        self.many = _MANY
        self.inherited: weakref.WeakSet[Inherited] = weakref.WeakSet()


_state = _State()


def withhold(fd: int) -> int:
    """Make a descriptor unusable in children; close it with `release`."""
    try:
        found = os.fstat(fd)
    except OSError:
        return fd  # a failing file system: using the descriptor will show it
    _state.files[fd] = found.st_dev, found.st_ino
    return fd


def release(fd: int) -> None:
    """Close a descriptor. :raises OSError: as `os.close`."""
    _state.files.pop(fd, None)
    os.close(fd)


def close(fd: int) -> None:
    """Close a descriptor, if it is one, whose delayed errors say nothing that anybody still
    needs."""
    if fd >= 0:
        try:
            release(fd)
        except OSError:
            pass  # it is released anyway (close(2))


def withhold_socket(sock: socket.socket) -> None:
    """Make a socket unusable in children, even if it is wrapped in TLS later."""
    sockets = _state.sockets
    sockets.add(os.fstat(sock.fileno()).st_ino)
    if len(sockets) > _state.many:
        sockets.intersection_update(_open_sockets().values())
        _state.many = max(_MANY, 2 * len(sockets))


def _open_sockets() -> dict[int, int]:
    """Descriptor to inode of every open socket."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:
            continue  # the descriptor of the listing itself
        if stat.S_ISSOCK(status.st_mode):
            found[int(name)] = status.st_ino
    return found


def tell_in_child(each: Inherited) -> None:
    """Call `each.in_child()` in every child that is forked while `each` exists."""
    _state.inherited.add(each)


def never_finalize(each: object) -> None:
    """Keep an object forever, even when the interpreter exits."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))


def _before_fork() -> None:
    # Imported before the fork: in the child, the import lock may be held by a thread that is gone.
    if _state.inherited:
        import ctypes  # noqa: F401


def _after_fork_in_child() -> None:
    _state.forks += 1
    try:
        _kill_descriptors()
    finally:
        _state.files.clear()
        _state.sockets.clear()
        for each in list(_state.inherited):
            each.in_child()


def _kill_descriptors() -> None:
    """Replace every withheld descriptor with a useless one.

    They are not closed: code that still has the number could then use, or close, another file.
    """
    fds = [fd for fd, which in _state.files.items() if _is_file(fd, which)]
    if _state.sockets:
        fds += [fd for fd, inode in _open_sockets().items() if inode in _state.sockets]
    if not fds:
        return
    dead = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)
    for fd in fds:
        os.dup2(dead, fd, inheritable=False)
    os.close(dead)


def _is_file(fd: int, which: tuple[int, int]) -> bool:
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == which


class Condition(threading.Condition):
    """A condition that a forked child can use, even if another thread held it at the fork.

    `wait` may return early: check again what is waited for.
    """

    def __init__(self) -> None:
        self._mine = threading.RLock()
        super().__init__(self._mine)
        self._process = Process()
        tell_in_child(self)

    def in_child(self) -> None:
        if self._mine.acquire(blocking=False):  # it was free, or held by this thread
            self._mine.release()
            return
        self._mine = threading.RLock()
        super().__init__(self._mine)

    def wait(self, timeout: float | None = None) -> bool:
        """:raises Cancelled: this is a child, in which no thread will notify."""
        self._process.check("this call")
        notified = super().wait(_POLL_INTERVAL if timeout is None else timeout)
        self._process.check("this call")
        return notified


class Thread(threading.Thread):
    """A daemon thread; `join` returns in a forked child, where the thread does not exist."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(daemon=True, **arguments)
        self._started = _Started()

    @property
    def never_began(self) -> bool:
        """Whether it was started but died at once, for lack of memory."""
        return self._started.in_vain

    def join(self, timeout: float | None = None) -> None:
        if self.ident is None:
            return  # it could not be started
        if timeout is not None:
            super().join(timeout)
            return
        process = Process()
        while self.is_alive() and process.is_current:
            super().join(_POLL_INTERVAL)


class _Started(threading.Event):
    """The event that `Thread.start` waits for.

    The wait also ends if a signal handler has forked in between, or if the thread died for lack of
    memory.
    """

    in_vain = False

    def wait(self, timeout: float | None = None) -> bool:
        process, ends = Process(), monotonic() + START_TIMEOUT
        while not super().wait(_POLL_INTERVAL if timeout is None else timeout):
            if timeout is not None or not process.is_current:
                return False
            if monotonic() > ends:
                self.in_vain = True
                return False
        return True


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
