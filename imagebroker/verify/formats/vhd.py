"""Microsoft's VHD: a dynamic disk, which qemu recognises by its header, or a fixed one.

A fixed disk is a plain disk followed by a footer of one sector. It cannot refer to another file,
and read as raw it is the same disk, one sector longer.
"""

from __future__ import annotations

import struct

from imagebroker.exceptions import FormatError
from imagebroker.verify.formats import signatures
from imagebroker.verify.formats.policy import FormatPolicy
from imagebroker.verify.formats.single import nothing_else
from imagebroker.verify.formats.spans import SECTOR, Reads, exactly, the_end, whole_sectors

_FIXED, _DYNAMIC = 2, 3
_KINDS = {_FIXED: "fixed", _DYNAMIC: "dynamic", 4: "differencing"}
#: The offset of the next header, if there is none.
_NO_HEADER = 2**64 - 1
_CHECKSUM_AT = 64
#: The largest geometry, which even larger disks have, too.
_NO_GEOMETRY = (65535, 16, 255)
#: The same limit for the block table as in qemu.
_MAX_BLOCKS = (2**31 - 1) // 4


def virtual_size(first: bytes, policy: FormatPolicy) -> Reads[int]:
    """Bytes of the disk inside. :raises FormatError: unsafe or damaged."""
    (kind,) = struct.unpack_from(">I", first, 60)
    if kind != _DYNAMIC:
        raise _refused(f"begins like a dynamic disk, but is {_kind(kind)}")
    size = _size(first)
    policy.check_virtual_size(size)
    yield from nothing_else("vhd")
    (header_at,) = struct.unpack_from(">Q", first, 16)
    if header_at < SECTOR:
        raise _refused(f"has its second header at byte {header_at}, inside the first")
    header = yield from exactly(header_at, 1024)
    table_end = _check_blocks(header, size)
    end = yield from the_end()
    if table_end > (end.size or 0):
        raise _refused(f"ends after {end.size} bytes, inside its block table")
    footer = signatures.footer_of_vhd(end.data)
    # The footer must match its copy at the beginning, except for its age and saved state.
    if footer and (footer[16:24], footer[40:64]) != (first[16:24], first[40:64]):
        raise _refused("has a footer that contradicts its header")
    return size


def fixed_size(footer: bytes, size: int) -> int:
    """The size of the disk in a file of `size` bytes with this footer and no header.

    :raises FormatError: it is not the footer of a fixed disk of that size.
    """
    if len(footer) != SECTOR:
        raise _refused(f"has a footer of {len(footer)} bytes, as before 2004")
    (kind,) = struct.unpack_from(">I", footer, 60)
    (header_at,) = struct.unpack_from(">Q", footer, 16)
    if kind != _FIXED or header_at != _NO_HEADER:
        raise _refused(f"has the footer of {_kind(kind)}, but no header")
    unsigned = footer[:_CHECKSUM_AT] + bytes(4) + footer[_CHECKSUM_AT + 4 :]
    if struct.unpack_from(">I", footer, _CHECKSUM_AT)[0] != ~sum(unsigned) & 0xFFFFFFFF:
        raise _refused("has a footer with a wrong checksum")
    inside, claimed = size - SECTOR, _size(footer)
    if claimed != inside:
        raise _refused(f"has a footer for a disk of {claimed} bytes after {inside} bytes")
    return inside


def fixed_but_declared(declared: str | None) -> FormatError:
    """The error for a fixed disk if only a plain one is acceptable."""
    return FormatError(
        "the content has the footer of a vhd, but only a plain disk is allowed"
        if declared is None
        else f"the content has the footer of a vhd, but the image is declared as {declared}",
        hint="declare it as vhd, or remove the footer: truncate -s -512 FILE",
        declared=declared,
        found="vhd",
    )


def _kind(number: int) -> str:
    name = _KINDS.get(number)
    return f"a disk of type {number}" if name is None else f"a {name} disk"


def _size(first: bytes) -> int:
    """Some programs use the size, others the geometry: the larger one counts."""
    size, cylinders, heads, sectors = struct.unpack_from(">QHBB", first, 48)
    if (cylinders, heads, sectors) == _NO_GEOMETRY:
        return whole_sectors(size)
    return max(whole_sectors(size), int(cylinders * heads * sectors * SECTOR))


def _check_blocks(header: bytes, size: int) -> int:
    """The offset at which the block table ends."""
    if not header.startswith(b"cxsparse"):
        raise _refused("has no second header")
    table_at, _, blocks, block = struct.unpack_from(">QIII", header, 16)
    if block < SECTOR or block & (block - 1):
        raise _refused(f"has blocks of {block} bytes")
    if blocks > _MAX_BLOCKS or blocks * block < size:
        raise _refused(f"has a table of {blocks} blocks for a disk of {size} bytes")
    return int(table_at + 4 * blocks)


def _refused(why: str) -> FormatError:
    return FormatError(
        f"the vhd {why}",
        hint="convert it, with its parent if it has one: qemu-img convert -f vpc -O vpc (or qcow2)",
        found="vhd",
    )
