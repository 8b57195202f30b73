"""A disk that a program writes to over a socket: the server's side of the NBD protocol.

It serves one client that writes each byte at most once, in order, and reads nothing. What the
client says is not trusted. (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md)
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

#: Seconds between two checks of the caller's wishes.
_POLL_INTERVAL = 0.1
#: The most that a client may write at once.
_LONGEST = 32 << 20
#: The most that an option of the handshake may have.
_LONGEST_OPTION = 4096

_GREETING = struct.Struct(">8s8sH")
_FLAGS = struct.Struct(">I")
_OPTION = struct.Struct(">8sII")
_OPTION_REPLY = struct.Struct(">QIII")
_EXPORT = struct.Struct(">HQH")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")

_FIXED, _NO_ZEROES = 1, 2
_ABORT, _GO = 2, 7
_ACKNOWLEDGED, _INFO, _UNSUPPORTED = 1, 3, 0x80000001
_OPTION_REPLY_MAGIC = 0x3E889045565A9
#: What the export can do: it has flags, and it can be flushed.
_CAN = 1 | 4
_REQUEST_MAGIC, _REPLY_MAGIC = 0x25609513, 0x67446698
_TOO_EARLY = "it ended before everything was written"
_WRITE, _DISCONNECT, _FLUSH = 1, 2, 3


class Misbehaved(Exception):
    """The client does what it must not, or is gone before the end."""


class Export:
    """One connection."""

    def __init__(self, connection: socket.socket, size: int, waiting: Callable[[], object]) -> None:
        """`size`: bytes of the disk. `waiting` is called while nothing comes."""
        self._socket, self._size, self._waiting = connection, size, waiting
        connection.settimeout(_POLL_INTERVAL)

    def writes(self) -> Iterator[tuple[int, bytearray]]:
        """The pieces that the client writes, with their positions: each begins after the one
        before. They end when the client says that it has written everything.

        :raises Misbehaved: as named.
        """
        self._shake_hands()
        position, flushed = 0, True
        while True:
            magic, _, kind, cookie, offset, length = self._unpacked(_REQUEST)
            if magic != _REQUEST_MAGIC:
                raise Misbehaved("it sent what is not a request")
            if kind == _DISCONNECT:
                if not flushed:
                    raise Misbehaved(_TOO_EARLY)
                return
            piece, refused = None, 0
            if kind == _WRITE:
                if not position <= offset <= offset + length <= self._size or length > _LONGEST:
                    raise Misbehaved(f"it wrote {length} bytes at {offset}, after {position}")
                position, flushed = offset + length, False
                piece = self._received(length)
            elif kind == _FLUSH:
                flushed = True
            else:
                refused = errno.EINVAL
            # Before the piece is stored, so that the client goes on meanwhile: should it not be
            # stored, the client is of no use any more.
            self._send(_REPLY.pack(_REPLY_MAGIC, refused, cookie))
            if piece is not None:
                yield offset, piece

    def _shake_hands(self) -> None:
        self._send(_GREETING.pack(b"NBDMAGIC", b"IHAVEOPT", _FIXED | _NO_ZEROES))
        self._unpacked(_FLAGS)
        while True:
            magic, option, length = self._unpacked(_OPTION)
            if magic != b"IHAVEOPT" or length > _LONGEST_OPTION or option == _ABORT:
                raise Misbehaved("it gave up the handshake")
            self._received(length)
            if option == _GO:
                self._answer(option, _INFO, _EXPORT.pack(0, self._size, _CAN))
                self._answer(option, _ACKNOWLEDGED)
                return
            self._answer(option, _UNSUPPORTED)

    def _answer(self, option: int, kind: int, data: bytes = b"") -> None:
        self._send(_OPTION_REPLY.pack(_OPTION_REPLY_MAGIC, option, kind, len(data)) + data)

    def _unpacked(self, form: struct.Struct) -> tuple[Any, ...]:
        return form.unpack(self._received(form.size))

    def _received(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            try:
                count = self._socket.recv_into(view)
            except TimeoutError:
                self._waiting()
                continue
            except OSError as error:
                raise Misbehaved(_TOO_EARLY) from error
            if not count:
                raise Misbehaved(_TOO_EARLY)
            view = view[count:]
        return data

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except TimeoutError:
                self._waiting()
            except OSError as error:
                raise Misbehaved(_TOO_EARLY) from error
