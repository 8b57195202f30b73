"""The interface between a reader of a format and the bytes that it reads.

A reader is a generator: it yields the `Span` it wants next (None: the end of the content) and is
sent a `Piece`. It does not see how the bytes arrive, so that streams and files get the same result.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple, TypeVar

#: Bytes at the beginning that a reader can request repeatedly: ISO 9660 begins at 32 KiB.
HEAD = 34 * 1024
#: Bytes at the end that are sent to a reader.
TAIL = 2048
#: Maximum length of a span, whatever a header says.
LONGEST = 64 * 1024
#: Where every format but ISO 9660 has its magic number, and all that qemu looks at.
SECTOR = 512


class Span(NamedTuple):
    """Bytes from `start` to `stop`; `whole`: fewer bytes are an error."""

    start: int
    stop: int
    whole: bool = False


class Piece(NamedTuple):
    """The bytes of a span, or the last bytes together with the total size."""

    data: bytes
    size: int | None = None


T = TypeVar("T")
Reads = Generator[Span | None, Piece, T]


def up_to(start: int, length: int) -> Reads[bytes]:
    """At most `length` bytes from `start`: fewer if the content ends before."""
    piece = yield Span(start, start + length)
    return piece.data


def exactly(start: int, length: int) -> Reads[bytes]:
    """`length` bytes from `start`; it is an error if the content ends before."""
    piece = yield Span(start, start + length, whole=True)
    return piece.data


def the_end() -> Reads[Piece]:
    """The last bytes of the content."""
    return (yield None)


def whole_sectors(size: int) -> int:
    """The size that a guest sees of a disk with `size` bytes in its header."""
    return size // SECTOR * SECTOR
