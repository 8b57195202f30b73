"""A socket that is read in large blocks where much arrives, and at once where little does.

Each block that is handed on costs the same, however small it is: what a server sends in pieces of
64 KiB would cost more to hand on than to receive. The kernel can wait until more is there.
"""

from __future__ import annotations

import socket
from time import monotonic

#: Seconds that bytes which have arrived may wait for further ones.
_MOMENT = 0.02
#: Fewer bytes than this are not worth a wait.
_LEAST = 32 * 1024


class Gathering:
    """Reads the body of one answer. The kernel is told to wait for as much as has been arriving."""

    def __init__(self, sock: socket.socket, patience: float, held: int = 0) -> None:
        """`sock` gives what one look at it brings.

        `patience`: seconds that the peer may be silent, which the socket has as its time-out;
        `held`: bytes that the socket may have of what is asked for, where the kernel does not.
        """
        self._sock, self._patience, self._held = sock, patience, held
        #: Bytes that will probably come within a moment.
        self._usual = 0
        # What the kernel was told.
        self._least, self._seconds = 1, patience

    def recv_into(self, view: memoryview, left: int | None) -> int:
        """Wait for bytes; 0 at the end. `left`: how many are still to come; None: until the end.

        :raises OSError: there are none, or none came in time.
        """
        room = len(view) if left is None else min(len(view), left - self._held)
        wanted = min(self._usual, room)
        if wanted < _LEAST or self._patience <= _MOMENT:
            self._wait_for(1, self._patience)
            count = self._sock.recv_into(view)
            self._usual = count if count >= _LEAST else 0
            return count
        self._wait_for(wanted, _MOMENT)
        began = monotonic()
        try:
            count = self._sock.recv_into(view)
        except TimeoutError:
            self._wait_for(1, self._patience - _MOMENT)
            count = self._sock.recv_into(view)
            self._usual = count // 2
        else:
            if monotonic() - began < _MOMENT / 4:
                self._usual = max(self._usual, 2 * wanted)
        return count

    def end(self) -> None:
        """What comes next on the connection may be short."""
        try:
            self._wait_for(1, self._patience)
        except OSError:
            pass  # it was closed meanwhile

    def _wait_for(self, least: int, seconds: float) -> None:
        """The next look at the socket waits for so many bytes, so long."""
        if least != self._least:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
            self._least = least
        if seconds != self._seconds:
            self._sock.settimeout(seconds)
            self._seconds = seconds
