"""A child process that is forked undoes nothing of its parent's, and holds nothing of it.

A fork copies every object, and with it every `finally`, `__exit__` and `close`. In the child they
would remove the parent's files, let go of its locks and shut its connections down. Therefore:

- Whatever undoes something outside of the memory asks a `Process` first whether it is its own.
- Descriptors that were given to `withhold` are dead in a child. Its copy of a lock or a connection
  can neither be used nor let go of there, and does not keep it alive.
- A child has one thread. `Condition` and `Thread` never wait there for those that are gone.
- What another's code would undo when it is finalized (`never_finalize`) is not finalized.
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

#: Seconds between two looks at whether this process is still the one that began to wait.
_MOMENT = 0.25
#: Seconds within which a thread has begun, however busy the host is.
PATIENCE = 10.0
#: Sockets that are remembered before those that are gone are looked for.
_MANY = 256


class Process:
    """The process in which it was made."""

    __slots__ = ("_forks", "_pid")

    def __init__(self) -> None:
        self._pid, self._forks = os.getpid(), _state.forks

    @property
    def is_current(self) -> bool:
        """Whether this is that process, and no child of it."""
        # A pid alone does not tell: in a namespace of its own a child may have the same.
        return self._pid == os.getpid() and self._forks == _state.forks

    def check(self, what: str) -> None:
        """:raises Cancelled: this is a child of the process that `what` belongs to."""
        if not self.is_current:
            raise Cancelled(
                f"{what} belongs to process {self._pid}, and this is its child {os.getpid()}",
                hint="begin anew in the child, or end the child with os._exit()",
            )


class Inherited(Protocol):
    """What has something to do in a child, before anything else runs there."""

    def in_child(self) -> None: ...


class _State:
    """What this process knows about itself."""

    def __init__(self) -> None:
        #: How many forks lie between this process and the first one.
        self.forks = 0
        #: Descriptors that no child may use, and which files they are.
        self.files: dict[int, tuple[int, int]] = {}
        #: The inodes of such sockets: wrapped in TLS or duplicated, they have other descriptors.
        self.sockets: set[int] = set()
        self.many = _MANY
        self.inherited: weakref.WeakSet[Inherited] = weakref.WeakSet()


_state = _State()


def withhold(fd: int) -> int:
    """Let no child use this descriptor; close it with `release`."""
    try:
        found = os.fstat(fd)
    except OSError:
        return fd  # a file system in trouble: whoever uses it will see
    _state.files[fd] = found.st_dev, found.st_ino
    return fd


def release(fd: int) -> None:
    """Close a descriptor. :raises OSError: as `os.close`."""
    _state.files.pop(fd, None)
    os.close(fd)


def withhold_socket(sock: socket.socket) -> None:
    """Let no child use this socket, whatever is wrapped around it."""
    sockets = _state.sockets
    sockets.add(os.fstat(sock.fileno()).st_ino)
    if len(sockets) > _state.many:
        sockets.intersection_update(_open_sockets().values())
        _state.many = max(_MANY, 2 * len(sockets))


def _open_sockets() -> dict[int, int]:
    """Descriptor to inode of every socket that is open."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:
            continue  # that of the listing itself
        if stat.S_ISSOCK(status.st_mode):
            found[int(name)] = status.st_ino
    return found


def tell_in_child(each: Inherited) -> None:
    """Call `each.in_child()` in every child that is forked while it lives."""
    _state.inherited.add(each)


def never_finalize(each: object) -> None:
    """Keep an object for ever, also when the interpreter ends."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))


def _before_fork() -> None:
    # In the child it could not be imported while another thread was importing.
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
    """Put what cannot do anything in the place of everything that is withheld.

    Not closed: whoever still has the number would close, or use, what gets it next.
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
    """One that a child can use, whoever had it when the process was forked.

    `wait` may return early; whoever waits looks again.
    """

    def __init__(self) -> None:
        self._mine = threading.RLock()
        super().__init__(self._mine)
        self._process = Process()
        tell_in_child(self)

    def in_child(self) -> None:
        if self._mine.acquire(blocking=False):  # it was free, or this thread's
            self._mine.release()
            return
        self._mine = threading.RLock()
        super().__init__(self._mine)

    def wait(self, timeout: float | None = None) -> bool:
        """:raises Cancelled: this is a child: whoever would notify is not here."""
        self._process.check("what is waited for")
        notified = super().wait(_MOMENT if timeout is None else timeout)
        self._process.check("what is waited for")
        return notified


class Thread(threading.Thread):
    """A daemon that nobody waits for in a child, where it does not exist."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(daemon=True, **arguments)
        self._started = _Started()

    @property
    def never_began(self) -> bool:
        """Whether it was started and died at once: it had no memory to begin with."""
        return self._started.in_vain

    def join(self, timeout: float | None = None) -> None:
        if self.ident is None:
            return  # there can be no further thread: it did not begin
        if timeout is not None:
            super().join(timeout)
            return
        process = Process()
        while self.is_alive() and process.is_current:
            super().join(_MOMENT)


class _Started(threading.Event):
    """`Thread.start` waits for it, also where a signal's handler has forked in between.

    And where the thread died in silence, for want of memory.
    """

    in_vain = False

    def wait(self, timeout: float | None = None) -> bool:
        process, ends = Process(), monotonic() + PATIENCE
        while not super().wait(_MOMENT if timeout is None else timeout):
            if timeout is not None or not process.is_current:
                return False
            if monotonic() > ends:
                self.in_vain = True
                return False
        return True


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
