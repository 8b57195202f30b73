"""QEMU's qcow2, versions 2 and 3, without a backing file or data file."""

from __future__ import annotations

import struct

from imagebroker.exceptions import FormatError
from imagebroker.verify.formats import second_opinion
from imagebroker.verify.formats.policy import FormatPolicy
from imagebroker.verify.formats.single import nothing_behind, nothing_else
from imagebroker.verify.formats.spans import HEAD, Reads, whole_sectors

_DATA_FILE = 1 << 2
_EXTENDED_L2 = 1 << 4
#: Bytes of the header.
_SHORTEST = {2: 72, 3: 104}
_NAME_OF_DATA_FILE = 0x44415441
#: Dirty, corrupt, data file (refused separately), compression type.
_KNOWN = 0b1111


def virtual_size(first: bytes, policy: FormatPolicy) -> Reads[int]:
    """Bytes of the disk inside. :raises FormatError: unsafe or damaged."""
    (version,) = struct.unpack_from(">I", first, 4)
    if version not in (2, 3):
        raise _refused(f"has version {version}; only 2 and 3 can be verified")
    backing, _, _, size = struct.unpack_from(">QIIQ", first, 8)
    if backing:
        raise _refused("has a backing file")
    _check_features(version, *struct.unpack_from(">Q", first, 72))
    policy.check_virtual_size(size)
    head = yield from nothing_else("qcow2")
    _check_extensions(version, head)
    second_opinion.require_safe("qcow2", [head])
    yield from nothing_behind("qcow2")
    return whole_sectors(size)


def _check_features(version: int, features: int) -> None:
    if version < 3:
        return
    if features & _DATA_FILE:
        raise _refused("keeps its data in another file")
    if features & _EXTENDED_L2:
        raise _refused("has extended L2 entries, which OpenStack does not accept")
    if features & ~_KNOWN:
        raise _refused(f"needs unknown features ({features & ~_KNOWN:#x})")


def _check_extensions(version: int, head: bytes) -> None:
    """The list of optional entries after the header."""
    (cluster_bits,) = struct.unpack_from(">I", head, 20)
    end = min(1 << min(cluster_bits, 32), HEAD)
    (at,) = struct.unpack_from(">I", head, 100) if version > 2 else (_SHORTEST[2],)
    if at < _SHORTEST[version]:
        raise _refused(f"has a header of {at} bytes, which is too short")
    while at + 8 <= end:
        kind, length = struct.unpack_from(">II", head, at)
        if not kind:
            return
        if kind == _NAME_OF_DATA_FILE:
            raise _refused("names a data file, although its features say that it has none")
        at += 8 + -(-length // 8) * 8
    if at > end:
        raise _refused("has header extensions that exceed its header")


def _refused(why: str) -> FormatError:
    return FormatError(
        f"the qcow2 {why}",
        hint="convert it to a standalone qcow2: qemu-img convert -O qcow2",
        found="qcow2",
    )
