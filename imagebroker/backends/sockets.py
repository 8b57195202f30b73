"""The sockets of each thread, so that the connections of a call that hangs can be shut down."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from typing import NamedTuple

from imagebroker.exceptions import TransferTimeout


class _Connected(NamedTuple):
    """A socket, by its descriptor (TLS detaches the object); the inode identifies it."""

    fd: int
    inode: int

    @property
    def is_open(self) -> bool:
        return _inode(self.fd) == self.inode

    def shut_down(self) -> None:
        """End all waiting on it. Its owner still closes it."""
        try:
            twin = os.dup(self.fd)
        except OSError:
            return  # closed in the meantime
        try:
            sock = socket.socket(fileno=twin)
        except OSError:
            os.close(twin)  # the descriptor belongs to another file by now
            return
        with sock, suppress(OSError):  # already disconnected
            if _inode(twin) == self.inode:
                sock.shutdown(socket.SHUT_RDWR)


def _inode(fd: int) -> int:
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return -1


class Sockets:
    """The sockets of one backend instance, by the thread that connected them.

    It has no lock, which a forked child would inherit locked. Instead, a socket is recorded before
    its thread is checked, and a thread is marked as cut off before its sockets are shut down.
    """

    def __init__(self) -> None:
        self._of: dict[int, list[_Connected]] = {}
        self._cut_off: set[int] = set()

    def check(self) -> None:
        """:raises TransferTimeout: the call of this thread was given up."""
        if threading.get_ident() in self._cut_off:
            raise TransferTimeout("the call took too long and was abandoned", retryable=False)

    def add(self, sock: socket.socket) -> None:
        """Record a socket of this thread. :raises TransferTimeout: its call was given up."""
        if len(self._of) > _MANY:
            self._forget_closed()
        connected = _Connected(sock.fileno(), os.fstat(sock.fileno()).st_ino)
        thread = threading.get_ident()
        kept = [each for each in self._of.get(thread, ()) if each.is_open]
        self._of[thread] = [*kept, connected]
        try:
            self.check()
        except TransferTimeout:
            sock.close()
            raise

    def _forget_closed(self) -> None:
        """Forget threads that were not released, because they are the plugin's own."""
        for thread, connected in list(self._of.items()):
            if not any(each.is_open for each in connected):
                self._of.pop(thread, None)

    def abort(self, thread: int) -> None:
        """Shut down the connections of `thread`."""
        for each in self._of.get(thread, ()):
            each.shut_down()

    def cut_off(self, thread: int) -> None:
        """Shut down the connections of `thread`, and refuse new ones."""
        self._cut_off.add(thread)
        self.abort(thread)

    def release(self, thread: int) -> None:
        """Forget a thread that ends; its id may be reused."""
        self._of.pop(thread, None)
        self._cut_off.discard(thread)


#: The number of threads above which those without open sockets are forgotten.
_MANY = 256
