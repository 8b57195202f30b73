"""VMware's VMDK, with header, descriptor and data in one file."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from imagebroker.exceptions import FormatError
from imagebroker.verify.formats import second_opinion
from imagebroker.verify.formats.policy import FormatPolicy
from imagebroker.verify.formats.single import nothing_behind, nothing_else
from imagebroker.verify.formats.spans import LONGEST, SECTOR, Reads, exactly

_ONE_FILE = (b"monolithicsparse", b"streamoptimized")
#: The directory offset in a header that refers to the footer, three sectors before the end.
_IN_THE_FOOTER = 2**64 - 1
_FOOTER_AT = -3 * SECTOR
_MARKER = struct.Struct("<QII496s")
_MARKS_FOOTER, _MARKS_END = 3, 0


class _Header(NamedTuple):
    version: int
    flags: int
    capacity: int
    granularity: int
    descriptor_at: int
    descriptor_length: int
    table_entries: int
    directory_at: int
    compression: int

    @classmethod
    def of(cls, sector: bytes) -> _Header:
        version, flags, *sizes = struct.unpack_from("<IIQQQQIQQ", sector, 4)
        capacity, granularity, at, length, entries, _, directory = sizes
        (compression,) = struct.unpack_from("<H", sector, 77)
        return cls(
            version, flags, capacity, granularity, at, length, entries, directory, compression
        )


def virtual_size(first: bytes, policy: FormatPolicy) -> Reads[int]:
    """Bytes of the disk inside. :raises FormatError: unsafe or damaged."""
    header = _Header.of(first)
    _check_header(header)
    policy.check_virtual_size(header.capacity * SECTOR)
    descriptor = yield from exactly(SECTOR, header.descriptor_length * SECTOR)
    _check_descriptor(descriptor)
    yield from nothing_else("vmdk")
    end = yield from nothing_behind("vmdk")
    if header.directory_at == _IN_THE_FOOTER:
        _check_footer(header, end.data, end.size or 0)
    second_opinion.require_safe("vmdk", [first + only_ascii(descriptor), end.data[_FOOTER_AT:]])
    return header.capacity * SECTOR


def _check_header(header: _Header) -> None:
    if header.version not in (1, 2, 3):
        raise _refused(f"has version {header.version}; only 1 to 3 can be verified")
    if not header.capacity:
        raise _refused("has no size in its header: its data is in other files")
    if header.descriptor_at != 1:
        raise _refused(f"has its descriptor in sector {header.descriptor_at}, not 1")
    if not 0 < header.descriptor_length <= LONGEST // SECTOR:
        raise _refused(
            f"has a descriptor of {header.descriptor_length} sectors; 1 to {LONGEST // SECTOR} are "
            "allowed"
        )


#: Names and comments may have other characters than ASCII, in any encoding: every character that
#: has a meaning in a descriptor is ASCII.
_EXTENT = re.compile(rb'(rw|rdonly|noaccess) \d+ sparse "[^"/\\]*"(?: \d+)?')
_FIELD = re.compile(rb"([a-z0-9_.]+)[ \t]*=[ \t]*(.*)")
_NOT_ASCII = re.compile(rb"[\x80-\xff]")


def _check_descriptor(descriptor: bytes) -> None:
    """The descriptor says where the data is: it must be in this file, and nowhere else."""
    text, end, _ = descriptor.partition(b"\0")
    if not end:
        raise _refused("has a descriptor without an end")
    lowered = text.lower()  # bytes: lowers ASCII only
    # Programs search the whole text for these words, including comments.
    if b"parentfilenamehint" in lowered:
        raise _refused("has a parent")
    if lowered.count(b"createtype") != 1:
        raise _refused("has a descriptor with no createType, or several")
    extents = [line for line in map(bytes.strip, lowered.split(b"\n")) if _is_extent(line)]
    if len(extents) != 1:
        raise _refused(f"has {len(extents)} extents instead of one, this file")


def _is_extent(line: bytes) -> bool:
    """:raises FormatError: the line is unsafe, or unknown."""
    if not line or line.startswith((b"#", b"ddb.")):
        return False
    if line.startswith((b"rw ", b"rdonly ", b"noaccess ")):
        if not _EXTENT.fullmatch(line):
            raise _refused(f"has its data in another file: {_shown(line)}")
        return True
    field = _FIELD.fullmatch(line)
    if field is None:
        raise _refused(f"has an unknown line in its descriptor: {_shown(line)}")
    name, value = field[1], field[2].strip(b'" \t')
    if name == b"createtype" and value not in _ONE_FILE:
        raise _refused(f"has the type {_shown(value[:40])}, which is not a single file")
    if name == b"parentcid" and value != b"ffffffff":
        raise _refused("has a parent")
    return False


def _shown(text: bytes) -> str:
    return repr(text[:160].decode("latin-1"))


def only_ascii(descriptor: bytes) -> bytes:
    """The same for readers that fail at the first character that is not ASCII."""
    return _NOT_ASCII.sub(b"?", descriptor)


def _check_footer(header: _Header, tail: bytes, size: int) -> None:
    sectors = tail[_FOOTER_AT:]
    if size % SECTOR or size < -_FOOTER_AT + SECTOR or not sectors[SECTOR:].startswith(b"KDMV"):
        raise _refused("has no footer, although its header says that it has one")
    footer = _Header.of(sectors[SECTOR : 2 * SECTOR])
    if footer.directory_at == _IN_THE_FOOTER:
        raise _refused("has a footer that refers to another footer")
    if header._replace(directory_at=0) != footer._replace(directory_at=0):
        raise _refused("has a footer that contradicts its header")
    for start, kind in ((0, _MARKS_FOOTER), (2 * SECTOR, _MARKS_END)):
        _, length, found, rest = _MARKER.unpack_from(sectors, start)
        if length or found != kind or any(rest):
            raise _refused("has a damaged footer")


def _refused(why: str) -> FormatError:
    return FormatError(
        f"the vmdk {why}",
        hint="convert it to a standalone vmdk: qemu-img convert -O vmdk",
        found="vmdk",
    )
