"""A client for SFTP version 3: packets, responses matched to requests, file operations.

It works over anything that sends and receives bytes (`Stream`), and does not trust the server:
lengths, ids and counts are checked before they are used.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from imagebroker.plugin import TransferError
from imagebroker_scp.errors import EOF, StatusError, nonsense
from imagebroker_scp.messages import (
    ATTRS,
    CLOSE,
    DATA,
    EXTENDED,
    EXTENDED_REPLY,
    FOR_READING,
    FSTAT,
    HANDLE,
    INIT,
    LSTAT,
    NAME,
    OPEN,
    OPENDIR,
    READ,
    READDIR,
    REALPATH,
    REMOVE,
    RENAME,
    STAT,
    STATUS,
    VERSION,
    Attributes,
    Fields,
    raise_for_status,
    read_request,
    string,
)

#: Every server must accept requests of this size.
SAFE_LENGTH = 32 * 1024
#: Maximum size of one request: with its header it fills a packet of 256 KiB.
MAX_LENGTH = 255 * 1024
#: Maximum size of a packet, as in OpenSSH.
MAX_PACKET = 256 * 1024
#: Maximum size of a handle according to the draft.
MAX_HANDLE = 256

_HEADER = struct.Struct(">IBI")
_U32 = struct.Struct(">I")


class Stream(Protocol):
    """The transport of an SFTP session."""

    def send(self, data: bytes) -> None:
        """Send all of `data`, or raise."""

    def receive(self) -> bytes:
        """What has arrived, at least one byte; empty once the server has ended the stream."""


@dataclass(frozen=True)
class Reply:
    """The header of a response; `length` bytes of it are still to be read."""

    kind: int
    id: int
    length: int


class Sftp:
    """One SFTP session. Used by one thread at a time."""

    def __init__(self, stream: Stream) -> None:
        """Agree on the version.

        :raises TransferError: the server does not support SFTP 3.
        """
        self._stream = stream
        self._arrived: memoryview = memoryview(b"")
        #: Bytes of the current response that were not read yet.
        self._left = 0
        self._last_id = 0
        #: Requests that are sent together, in one packet.
        self._unsent = bytearray()
        #: The error after which nothing can be sent.
        self._broken: TransferError | None = None
        #: Requests whose responses are to be dropped.
        self._abandoned: set[int] = set()
        stream.send(_U32.pack(5) + bytes([INIT]) + _U32.pack(3))
        length = self._packet_length(minimum=5)
        kind, version = struct.unpack(">BI", self._take(5))
        if kind != VERSION or version < 3:
            raise TransferError(
                f"the server does not support SFTP 3: it sent packet {kind}, version {version}",
                hint="check that the server's sftp subsystem works: a shell that prints something "
                "at login breaks it", retryable=False,
            )  # fmt: skip
        self.extensions = _extensions(Fields(self._take(length - 5)))
        self.max_read, self.max_write = self._limits()

    def _limits(self) -> tuple[int, int]:
        """The largest read and write that the server accepts in one request."""
        if self.extensions.get(b"limits@openssh.com") != b"1":
            return SAFE_LENGTH, SAFE_LENGTH
        answer = self._ask(EXTENDED, EXTENDED_REPLY, string(b"limits@openssh.com"))
        _, read, write = answer.u64(), answer.u64(), answer.u64()
        return _within_reason(read), _within_reason(write)

    # Requests and responses.

    def post(self, kind: int, *fields: bytes) -> int:
        """Send a request, at the latest before waiting for a response.

        Returns its id, which `next_reply` returns with the response.
        """
        self._last_id = (self._last_id + 1) & 0xFFFFFFFF
        length = sum(map(len, fields)) + 5
        self._unsent += _HEADER.pack(length, kind, self._last_id)
        for field in fields:
            self._unsent += field
        if len(self._unsent) >= SAFE_LENGTH:
            self._flush()
        return self._last_id

    def _flush(self) -> None:
        if not self._unsent:
            return
        data, self._unsent = bytes(self._unsent), bytearray()
        try:
            if self._broken is None:
                self._stream.send(data)
        except TransferError as error:
            # Raised later: data that arrived before the connection was lost can still be used.
            self._broken = error

    def abandon(self, *ids: int) -> None:
        """Drop the responses to these requests when they arrive."""
        self._abandoned.update(ids)

    def next_reply(self) -> Reply:
        """The header of the next response; the rest of the current one is dropped."""
        while True:
            for _ in self.pieces():
                pass
            length = self._packet_length(minimum=5)
            kind, number = struct.unpack(">BI", self._take(5))
            self._left = length - 5
            if number not in self._abandoned:
                return Reply(kind, number, self._left)
            self._abandoned.discard(number)

    def body(self) -> Fields:
        """All fields of the current response."""
        length, self._left = self._left, 0
        return Fields(self._take(length))

    def pieces(self) -> Iterator[memoryview]:
        """The bytes of the current response, each piece as soon as it arrives."""
        while self._left:
            piece = self._take_some(self._left)
            self._left -= len(piece)
            yield piece

    def u32(self) -> int:
        """The next number in the current response."""
        self._left -= 4
        return int(_U32.unpack(self._take(4))[0])

    def _ask(self, kind: int, expected: int, *fields: bytes) -> Fields:
        """Send a request, and return the fields of its response.

        :raises StatusError: the response is a status (OK only if that is not expected).
        """
        number = self.post(kind, *fields)
        reply = self.next_reply()
        if reply.id != number:
            raise nonsense(f"answered request {reply.id}, which was not sent")
        answer = self.body()
        if reply.kind == STATUS:
            raise_for_status(answer)
            if expected == STATUS:
                return answer
        if reply.kind != expected:
            raise nonsense(f"answered request {kind} with packet {reply.kind}")
        return answer

    def _packet_length(self, minimum: int) -> int:
        length = int(_U32.unpack(self._take(4))[0])
        if not minimum <= length <= MAX_PACKET:
            raise TransferError(
                f"the server sent an SFTP packet of {length} bytes",
                hint="check that the server's sftp subsystem works: a shell that prints something "
                "at login breaks it",
            )
        return length

    def _take(self, count: int) -> memoryview:
        taken = self._take_some(count) if count else memoryview(b"")
        if len(taken) == count:
            return taken
        pieces = [taken]
        while count := count - len(pieces[-1]):
            pieces.append(self._take_some(count))
        return memoryview(b"".join(pieces))

    def _take_some(self, count: int) -> memoryview:
        """At least one and at most `count` bytes."""
        if not self._arrived:
            self._flush()
            data = self._stream.receive()
            if not data:
                raise self._broken or TransferError(
                    "the server ended the SFTP session",
                    hint="check the server's log, and that its sftp subsystem works",
                )
            self._arrived = memoryview(data)
        taken, self._arrived = self._arrived[:count], self._arrived[count:]
        return taken

    # Files and directories.

    def stat(self, path: bytes) -> Attributes:
        """The attributes of `path`, following links."""
        return self._ask(STAT, ATTRS, string(path)).attributes()

    def lstat(self, path: bytes) -> Attributes:
        """The attributes of `path` itself, even if it is a link."""
        return self._ask(LSTAT, ATTRS, string(path)).attributes()

    def fstat(self, handle: bytes) -> Attributes:
        """The attributes of an open file."""
        return self._ask(FSTAT, ATTRS, string(handle)).attributes()

    def realpath(self, path: bytes) -> bytes:
        """`path` with all links resolved."""
        answer = self._ask(REALPATH, NAME, string(path))
        if answer.u32() != 1:
            raise nonsense("resolved one path to several")
        return answer.string()

    def open(self, path: bytes, flags: int = FOR_READING, mode: int | None = None) -> bytes:
        """Open a file; returns its handle. `mode`: of a new file."""
        attributes = _U32.pack(0) if mode is None else struct.pack(">II", 0x04, mode)
        return self._handle(OPEN, string(path), _U32.pack(flags), attributes)

    def _handle(self, kind: int, *fields: bytes) -> bytes:
        handle = self._ask(kind, HANDLE, *fields).string()
        if not 0 < len(handle) <= MAX_HANDLE:
            raise nonsense(f"sent a file handle of {len(handle)} bytes")
        return handle

    def close(self, handle: bytes) -> None:
        """Close a handle."""
        self._ask(CLOSE, STATUS, string(handle))

    def give_back(self, handle: bytes) -> None:
        """Close a handle without waiting for the response."""
        self.abandon(self.post(CLOSE, string(handle)))
        self._flush()

    def has_data_at(self, handle: bytes, offset: int) -> bool:
        """Whether the file has data at `offset`."""
        try:
            data = self._ask(READ, DATA, read_request(handle, offset, 1)).string()
        except StatusError as error:
            if error.code == EOF:
                return False
            raise
        return bool(data)

    def listdir(self, path: bytes) -> Iterator[tuple[bytes, Attributes]]:
        """The names in a directory, without `.` and `..`, with their attributes (as `lstat`)."""
        handle = self._handle(OPENDIR, string(path))
        own = 0
        try:
            while True:
                try:
                    answer = self._ask(READDIR, NAME, string(handle))
                except StatusError as error:
                    if error.code == EOF:
                        return
                    raise
                for name, attributes in answer.names():
                    if name not in (b".", b".."):
                        yield name, attributes
                        continue
                    own += 1
                    if own > 2:
                        raise nonsense("lists . and .. more than once in a directory")
        finally:
            self.give_back(handle)

    def remove(self, path: bytes) -> None:
        """Remove a file."""
        self._ask(REMOVE, STATUS, string(path))

    def rename(self, old: bytes, new: bytes) -> None:
        """Rename a file; the new name must not exist: SFTP 3 does not replace files."""
        self._ask(RENAME, STATUS, string(old), string(new))

    def fsync(self, handle: bytes) -> None:
        """Have the server flush a file to disk, if it supports that."""
        if self.extensions.get(b"fsync@openssh.com") == b"1":
            self._ask(EXTENDED, STATUS, string(b"fsync@openssh.com"), string(handle))


def _extensions(fields: Fields) -> dict[bytes, bytes]:
    found = {}
    while fields:
        name = fields.string()
        found[name] = fields.string()
    return found


def _within_reason(limit: int) -> int:
    """A server's limit (0: none), restricted to useful values."""
    return min(max(limit, 1024), MAX_LENGTH) if limit else SAFE_LENGTH
