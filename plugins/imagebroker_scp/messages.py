"""The contents of SFTP packets: numbers, fields and attributes of files."""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from imagebroker.plugin import printable
from imagebroker_scp.errors import OK, StatusError, nonsense

# Types of packets (draft-ietf-secsh-filexfer-02, section 3).
INIT, VERSION = 1, 2
OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT = 3, 4, 5, 6, 7, 8
OPENDIR, READDIR, REMOVE, REALPATH, STAT, RENAME = 11, 12, 13, 16, 17, 18
STATUS, HANDLE, DATA, NAME, ATTRS = 101, 102, 103, 104, 105
EXTENDED, EXTENDED_REPLY = 200, 201

# Flags of OPEN.
FOR_READING, FOR_WRITING, CREATE, EXCLUSIVE = 0x01, 0x02, 0x08, 0x20

_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")


@dataclass(frozen=True)
class Attributes:
    """The attributes of a file; None if the server does not send one."""

    size: int | None = None
    mode: int | None = None
    #: Seconds since 1970.
    mtime: int | None = None

    @property
    def is_regular(self) -> bool:
        """Whether it is a regular file, or the server sends no mode."""
        return self.mode is None or stat.S_IFMT(self.mode) in (0, stat.S_IFREG)

    @property
    def is_link(self) -> bool:
        return self.mode is not None and stat.S_ISLNK(self.mode)


class Fields:
    """The fields of one packet, read one after the other."""

    def __init__(self, data: memoryview | bytes) -> None:
        self._rest = memoryview(data)

    def __bool__(self) -> bool:
        return bool(self._rest)

    def _take(self, count: int) -> memoryview:
        if count > len(self._rest):
            raise nonsense("sent an SFTP packet that ends too early")
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def u32(self) -> int:
        return int(_U32.unpack(self._take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self._take(8))[0])

    def string(self) -> bytes:
        return bytes(self._take(self.u32()))

    def attributes(self) -> Attributes:
        flags = self.u32()
        size = self.u64() if flags & 0x01 else None
        if flags & 0x02:
            self._take(8)  # uid and gid
        mode = self.u32() if flags & 0x04 else None
        mtime = _U32.unpack(self._take(8)[4:])[0] if flags & 0x08 else None
        if flags & 0x80000000:
            for _ in range(self.u32()):
                self.string(), self.string()
        return Attributes(size, mode, mtime)

    def names(self) -> Iterator[tuple[bytes, Attributes]]:
        count = self.u32()
        if not count:
            raise nonsense("sent part of a directory without names")
        for _ in range(count):
            name = self.string()
            self.string()  # the same in the form of `ls -l`
            yield name, self.attributes()


def string(data: bytes) -> bytes:
    """A field that holds bytes."""
    return _U32.pack(len(data)) + data


def read_request(handle: bytes, offset: int, length: int) -> bytes:
    """The fields of READ."""
    return string(handle) + _U64.pack(offset) + _U32.pack(length)


def write_request(handle: bytes, offset: int, data: bytes) -> bytes:
    """The fields of WRITE."""
    return string(handle) + _U64.pack(offset) + string(data)


def raise_for_status(answer: Fields) -> None:
    """:raises StatusError: the status is not OK."""
    code = answer.u32()
    if code != OK:
        # Servers of version 1 and 2 send no text.
        text = answer.string() if answer else b""
        raise StatusError(code, printable(text.decode("utf-8", "replace"), 256))
