"""Which thread has connected what, so that a call that hangs, or never ends, can be cut off."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass

from imagebroker.exceptions import TransferTimeout


@dataclass(frozen=True)
class _Connected:
    """A socket by its descriptor, as TLS takes that out of the object; the inode proves it."""

    fd: int
    inode: int

    @property
    def is_open(self) -> bool:
        return _inode(self.fd) == self.inode

    def shut_down(self) -> None:
        """End all waiting for it. Its owner still closes it."""
        try:
            twin = os.dup(self.fd)
        except OSError:
            return  # closed in the meantime
        try:
            sock = socket.socket(fileno=twin)
        except OSError:
            os.close(twin)  # the descriptor is another file's by now
            return
        with sock, suppress(OSError):  # the peer was faster
            if _inode(twin) == self.inode:
                sock.shutdown(socket.SHUT_RDWR)


def _inode(fd: int) -> int:
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return -1


class Sockets:
    """The sockets of one backend instance, by the thread that has connected them.

    Without a lock: a child process would inherit it as it is. A socket is noted before its thread
    is looked up among the unwanted, and a thread is unwanted before its sockets are.
    """

    def __init__(self) -> None:
        self._of: dict[int, list[_Connected]] = {}
        self._unwanted: set[int] = set()

    def check(self) -> None:
        """:raises TransferTimeout: nobody waits for this thread any more."""
        if threading.get_ident() in self._unwanted:
            raise TransferTimeout("nobody waits for this call any more", retryable=False)

    def add(self, sock: socket.socket) -> None:
        """`sock` is this thread's. :raises TransferTimeout: nobody waits for it any more."""
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
        """Of threads that nobody has released, because they are not ours."""
        for thread, connected in list(self._of.items()):
            if not any(each.is_open for each in connected):
                self._of.pop(thread, None)

    def abort(self, thread: int) -> None:
        """Shut down what `thread` has connected."""
        for each in self._of.get(thread, ()):
            each.shut_down()

    def cut_off(self, thread: int) -> None:
        """The same, and let it connect nothing more."""
        self._unwanted.add(thread)
        self.abort(thread)

    def release(self, thread: int) -> None:
        """The thread ends; another one may get its number."""
        self._of.pop(thread, None)
        self._unwanted.discard(thread)


#: Threads with sockets, from which on it is worth looking for those that have ended.
_MANY = 256
