"""VirtualBox's VDI, without a parent image."""

from __future__ import annotations

import struct

from imagebroker.exceptions import FormatError
from imagebroker.verify.formats.policy import FormatPolicy
from imagebroker.verify.formats.single import nothing_behind, nothing_else
from imagebroker.verify.formats.spans import SECTOR, Reads

_VERSION = 0x00010001
_WITHOUT_PARENT = {1: "dynamic", 2: "static"}
#: The same limit as in qemu.
_MAX_BLOCKS = 0x3FFFFFFF


def virtual_size(first: bytes, policy: FormatPolicy) -> Reads[int]:
    """Bytes of the disk inside. :raises FormatError: unsafe or damaged."""
    version, _, kind = struct.unpack_from("<III", first, 0x44)
    if version != _VERSION:
        raise _refused(f"has version {version >> 16}.{version & 0xFFFF}, not 1.1")
    if kind not in _WITHOUT_PARENT or any(first[0x1A8:0x1C8]):
        raise _refused("has a parent image")
    size, block, _, blocks = struct.unpack_from("<QIII", first, 0x170)
    size = -(-size // SECTOR) * SECTOR
    policy.check_virtual_size(size)
    if blocks > _MAX_BLOCKS or blocks * block < size:
        raise _refused(f"has a table of {blocks} blocks for a disk of {size} bytes")
    yield from nothing_else("vdi")
    end = yield from nothing_behind("vdi")
    (table_at,) = struct.unpack_from("<I", first, 0x154)
    if table_at + 4 * blocks > (end.size or 0):
        raise _refused(f"ends after {end.size} bytes, inside its block table")
    return int(size)


def _refused(why: str) -> FormatError:
    return FormatError(
        f"the vdi {why}",
        hint="convert it to a standalone vdi: qemu-img convert -O vdi",
        found="vdi",
    )
