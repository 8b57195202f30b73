"""What a reader of a format asks for, and what it gets.

A reader is a generator: it yields the `Span` it wants next (None: the end of the content) and is
sent a `Piece`. It never sees how the bytes arrive, so that a stream and a file are judged alike,
however the stream is cut.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

#: Bytes at the beginning that may be asked for again and again: ISO 9660 begins at 32 KiB.
HEAD = 34 * 1024
#: Bytes of the end that a reader is sent.
TAIL = 2048
#: No reader wants more at once, whatever a header claims.
LONGEST = 64 * 1024
#: Where every format but ISO 9660 shows what it is, and all that qemu looks at.
SECTOR = 512


@dataclass(frozen=True)
class Span:
    """Bytes from `start` to `stop`; `whole`: less of them is an error."""

    start: int
    stop: int
    whole: bool = False


@dataclass(frozen=True)
class Piece:
    """The bytes of a span, or those at the end together with the size of it all."""

    data: bytes
    size: int | None = None


T = TypeVar("T")
Reads = Generator[Span | None, Piece, T]


def up_to(start: int, length: int) -> Reads[bytes]:
    """At most `length` bytes from `start`: fewer where the content ends before."""
    piece = yield Span(start, start + length)
    return piece.data


def exactly(start: int, length: int) -> Reads[bytes]:
    """`length` bytes from `start`; whoever reads raises where the content ends before."""
    piece = yield Span(start, start + length, whole=True)
    return piece.data


def the_end() -> Reads[Piece]:
    """The last bytes, when all have been seen."""
    return (yield None)


def whole_sectors(size: int) -> int:
    """What a guest sees of a disk for which a header claims `size` bytes."""
    return size // SECTOR * SECTOR
