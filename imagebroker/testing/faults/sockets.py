"""Ends connections: with FIN, with RST, and while a thread waits for them."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
import time

#: Seconds that the other side gets to take what was sent.
SEND_TIMEOUT = 5.0


def reset(sock: socket.socket) -> None:
    """Close with RST instead of FIN. What the kernel has not sent yet is lost."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # As in wake_and_close; only the reading half, as shutting the writing half sends a FIN.
        sock.shutdown(socket.SHUT_RD)
    sock.close()


def wake_and_close(sock: socket.socket) -> None:
    """Close, also for a thread that is blocked in accept or recv: close alone leaves it there."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def drain(sock: socket.socket) -> None:
    """Wait until the other side has everything: RST throws away what is still to be sent."""
    deadline = time.monotonic() + SEND_TIMEOUT
    with contextlib.suppress(OSError, ValueError):
        while time.monotonic() < deadline:
            [unsent] = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))
            if unsent == 0:
                return
            time.sleep(0.001)


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection within this process: the one that dialled comes first."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname(), SEND_TIMEOUT)
        far, _ = listener.accept()
    far.settimeout(None)
    return near, far
