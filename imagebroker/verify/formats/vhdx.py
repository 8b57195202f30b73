"""Microsoft's VHDX, without a parent image."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache

from imagebroker.exceptions import FormatError
from imagebroker.verify.formats.policy import FormatPolicy
from imagebroker.verify.formats.single import nothing_behind, nothing_else
from imagebroker.verify.formats.spans import Reads, exactly, whole_sectors

_KIB = 1024
_HEADERS_AT = 64 * _KIB, 128 * _KIB
_HEADER = 4 * _KIB
_REGIONS_AT = 192 * _KIB
_TABLE = 64 * _KIB
#: Headers and region tables are before it; no region must overlap them.
_FIRST_REGION_AT = 1024 * _KIB
_MAX_ENTRIES = 2047


def _guid(text: str) -> bytes:
    """Its bytes on a disk, the first three fields little-endian; importing uuid takes 4 ms."""
    raw = bytes.fromhex(text.replace("-", ""))
    return raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]


_METADATA = _guid("8b7ca206-4790-4b9a-b8fe-575f050f886e")
_PARAMETERS = _guid("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
_DISK_SIZE = _guid("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
_PARENT = _guid("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
_HAS_PARENT = 2


def virtual_size(first: bytes, policy: FormatPolicy) -> Reads[int]:
    """Bytes of the disk inside. :raises FormatError: unsafe or damaged."""
    yield from nothing_else("vhdx")
    yield from _check_log()
    region = yield from _metadata_region()
    table = yield from exactly(region.start, _TABLE)
    (entries,) = struct.unpack_from("<H", table, 10)
    if not table.startswith(b"metadata") or entries > _MAX_ENTRIES:
        raise _refused("has a damaged metadata table")
    items = _unique(_entries(table, 32, entries))
    if _PARENT in items:
        raise _refused("has a parent")
    values = {}
    # In the order of the file: a stream is never read backwards.
    for name in sorted((_PARAMETERS, _DISK_SIZE), key=lambda name: _item(items, name)[0]):
        offset, length, *_ = _item(items, name)
        if length != 8 or not _TABLE <= offset <= len(region) - 8:
            raise _refused("has metadata outside of its region")
        values[name] = yield from exactly(region.start + offset, 8)
    if struct.unpack_from("<I", values[_PARAMETERS], 4)[0] & _HAS_PARENT:
        raise _refused("has a parent")
    (size,) = struct.unpack("<Q", values[_DISK_SIZE])
    policy.check_virtual_size(size)
    yield from nothing_behind("vhdx")
    return whole_sectors(size)


def _check_log() -> Reads[None]:
    """A program that opens an image for writing replays its log first, which may change the
    metadata that is checked here, and add a parent. A properly closed image has no log.
    """
    headers = []
    for at in _HEADERS_AT:
        header = yield from exactly(at, _HEADER)
        headers.append(header)
    newest = max((_sequence(header) for header in headers if _is_valid(header)), default=None)
    if newest is None:
        raise _refused("has no valid header")
    for header in headers:
        # Even if its checksum is wrong: not every program checks that.
        if header.startswith(b"head") and _sequence(header) >= newest and any(header[48:64]):
            raise _refused("was not closed properly: it has a log to replay")


def _sequence(header: bytes) -> int:
    return int.from_bytes(header[8:16], "little")


def _is_valid(header: bytes) -> bool:
    (checksum,) = struct.unpack_from("<I", header, 4)
    (version,) = struct.unpack_from("<H", header, 66)
    sound = header.startswith(b"head") and version == 1
    return sound and checksum == crc32c(header[:4] + bytes(4) + header[8:])


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), which the standard library does not have."""
    table = _crc32c_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@cache
def _crc32c_table() -> tuple[int, ...]:
    values = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        values.append(value)
    return tuple(values)


def _metadata_region() -> Reads[range]:
    """Where in the file the metadata is."""
    table = yield from exactly(_REGIONS_AT, _TABLE)
    (entries,) = struct.unpack_from("<I", table, 8)
    if not table.startswith(b"regi") or entries > _MAX_ENTRIES:
        raise _refused("has a damaged region table")
    regions = _unique(_entries(table, 16, entries))
    if _METADATA not in regions:
        raise _refused("has no metadata")
    low, high, length, _ = regions[_METADATA]
    start = low + (high << 32)
    if start < _FIRST_REGION_AT or length < _TABLE:
        raise _refused("has its metadata inside its headers")
    return range(start, start + length)


def _entries(table: bytes, start: int, count: int) -> Iterator[tuple[bytes, tuple[int, ...]]]:
    for at in range(start, min(start + 32 * count, len(table) - 31), 32):
        yield table[at : at + 16], struct.unpack_from("<4I", table, at + 16)


def _unique(entries: Iterator[tuple[bytes, tuple[int, ...]]]) -> dict[bytes, tuple[int, ...]]:
    found: dict[bytes, tuple[int, ...]] = {}
    for name, entry in entries:
        if name in found:
            raise _refused("has a duplicate entry in a table")
        found[name] = entry
    return found


def _item(items: dict[bytes, tuple[int, ...]], name: bytes) -> tuple[int, ...]:
    if name not in items:
        raise _refused("has no size or no parameters")
    return items[name]


def _refused(why: str) -> FormatError:
    return FormatError(
        f"the vhdx {why}",
        hint="convert it to a standalone vhdx: qemu-img convert -O vhdx",
        found="vhdx",
    )
