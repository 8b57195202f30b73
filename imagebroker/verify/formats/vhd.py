"""Microsoft's VHD, as a dynamic disk: what qemu recognises as one."""

from __future__ import annotations

import struct

from imagebroker.exceptions import FormatError
from imagebroker.verify.formats import signatures
from imagebroker.verify.formats.policy import FormatPolicy
from imagebroker.verify.formats.single import nothing_else
from imagebroker.verify.formats.spans import SECTOR, Reads, exactly, the_end, whole_sectors

_DYNAMIC = 3
_KINDS = {2: "fixed", 4: "differencing"}
#: The largest geometry: what larger disks have too.
_NO_GEOMETRY = (65535, 16, 255)
#: qemu's own bound on the entries of the block table.
_MOST_BLOCKS = (2**31 - 1) // 4


def virtual_size(first: bytes, policy: FormatPolicy) -> Reads[int]:
    """Bytes of the disk inside. :raises FormatError: unsafe or damaged."""
    (kind,) = struct.unpack_from(">I", first, 60)
    if kind != _DYNAMIC:
        raise _refused(f"is not a dynamic disk but {_KINDS.get(kind, f'of the kind {kind}')}")
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
    # What the copy at the start says of the disk; only its age and saved state may differ.
    if footer and (footer[16:24], footer[40:64]) != (first[16:24], first[40:64]):
        raise _refused("has a footer that contradicts its header")
    return size


def _size(first: bytes) -> int:
    """Some programs go by the size, others by the geometry: the larger one counts."""
    size, cylinders, heads, sectors = struct.unpack_from(">QHBB", first, 48)
    if (cylinders, heads, sectors) == _NO_GEOMETRY:
        return whole_sectors(size)
    return max(whole_sectors(size), int(cylinders * heads * sectors * SECTOR))


def _check_blocks(header: bytes, size: int) -> int:
    """Where the block table ends."""
    if not header.startswith(b"cxsparse"):
        raise _refused("has no second header")
    table_at, _, blocks, block = struct.unpack_from(">QIII", header, 16)
    if block < SECTOR or block & (block - 1):
        raise _refused(f"has blocks of {block} bytes")
    if blocks > _MOST_BLOCKS or blocks * block < size:
        raise _refused(f"has a table of {blocks} blocks for a disk of {size} bytes")
    return int(table_at + 4 * blocks)


def _refused(why: str) -> FormatError:
    return FormatError(
        f"the vhd {why}",
        hint="convert it with qemu-img convert -f vpc -O vpc (or to qcow2), "
        "together with its parent if it has one",
        found="vhd",
    )
