"""Received data: read from the socket in large pieces, decrypted packet by packet, and passed on
to the thread that waits for it, with as few copies as possible in Python.
"""

from __future__ import annotations

import socket
import threading
from time import monotonic
from typing import Any

from paramiko.buffered_pipe import BufferedPipe, PipeTimeout

#: Sizes of a packet's length field, and of the tag after it (RFC 5647, sections 7.2 and 7.3).
_LENGTH, _TAG = 4, 16


class Arrivals:
    """Received bytes that were not taken yet, in a buffer of fixed size."""

    def __init__(self, size: int) -> None:
        self._all = memoryview(bytearray(size))
        self._begin = self._end = 0

    def __len__(self) -> int:
        return self._end - self._begin

    def receive(self, sock: socket.socket, most: int) -> int:
        """Receive at most `most` bytes; returns their number, 0 at the end."""
        if self._begin == self._end:
            self._begin = self._end = 0
        elif self._end + most > len(self._all):
            rest = len(self)
            self._all[:rest] = self._all[self._begin : self._end]
            self._begin, self._end = 0, rest
        count = sock.recv_into(self._all[self._end : self._end + most])
        self._end += count
        return count

    def peek(self, count: int) -> memoryview:
        """The next bytes, valid until the next `receive`; fewer if there are not so many."""
        return self._all[self._begin : min(self._begin + count, self._end)]

    def take(self, count: int) -> memoryview:
        """As `peek`, and remove them."""
        taken = self.peek(count)
        self._begin += len(taken)
        return taken

    def take_line(self) -> bytes | None:
        """A line without its line feed, if a complete one has arrived."""
        line, end, _ = bytes(self.peek(len(self))).partition(b"\n")
        if not end:
            return None
        self._begin += len(line) + 1
        return line


class Seals:
    """Decrypts packets of AES-GCM, with one key."""

    def __init__(self, engine: Any, nonce: bytes) -> None:
        self._engine = engine
        self._fixed = nonce[:4]
        self._counter = int.from_bytes(nonce[4:], "big")
        #: The packets and bytes decrypted with this key.
        self.packets = self.bytes = 0
        #: The length of the packet that is being received.
        self.announced = 0

    def open_next(self, arrivals: Arrivals) -> memoryview | None:
        """The payload of the next packet; None if it has not arrived completely.

        :raises cryptography.exceptions.InvalidTag: it was modified.
        """
        length = arrivals.peek(_LENGTH)
        if len(length) < _LENGTH:
            return None
        self.announced = size = int.from_bytes(length, "big")
        if len(arrivals) < _LENGTH + size + _TAG:
            return None
        length = arrivals.take(_LENGTH)
        nonce = self._fixed + self._counter.to_bytes(8, "big")
        content = self._engine.decrypt(nonce, arrivals.take(size + _TAG), length)
        self._counter = (self._counter + 1) & 0xFFFFFFFFFFFFFFFF
        self.packets += 1
        self.bytes += size
        # RFC 4253, section 6: the length of the padding, the payload, the padding.
        payload = memoryview(content)[1 : size - content[0]]
        if not payload:
            raise ValueError("an empty packet")
        return payload


class Inbox(BufferedPipe):  # type: ignore[type-arg]
    """The data of one channel, from paramiko's thread to the one that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._pieces: list[memoryview | bytes] = []
        self._ended = False

    def put(self, pieces: list[memoryview]) -> None:
        """Add data; `pieces` is copied."""
        with self._changed:
            self._pieces += pieces
            self._changed.notify()

    def feed(self, data: bytes) -> None:
        with self._changed:
            self._pieces.append(data)
            self._changed.notify()

    def read(self, nbytes: int, timeout: float | None = None) -> bytes:
        """Everything that has arrived; empty at the end.

        :raises PipeTimeout: nothing arrived.
        """
        ends = None if timeout is None else monotonic() + timeout
        with self._changed:
            while not self._pieces and not self._ended:
                if not self._changed.wait(None if ends is None else ends - monotonic()):
                    raise PipeTimeout
            pieces, self._pieces = self._pieces, []
        return b"".join(pieces)

    def close(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
