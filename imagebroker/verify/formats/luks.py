"""A disk encrypted with LUKS, version 1."""

from __future__ import annotations

import struct

from imagebroker.exceptions import FormatError
from imagebroker.verify.formats import second_opinion
from imagebroker.verify.formats.policy import FormatPolicy
from imagebroker.verify.formats.single import nothing_behind, nothing_else
from imagebroker.verify.formats.spans import SECTOR, Reads, up_to


def virtual_size(first: bytes, policy: FormatPolicy) -> Reads[int]:
    """Bytes of the disk inside. :raises FormatError: another version, or damaged."""
    (version,) = struct.unpack_from(">H", first, 6)
    if version != 1:
        raise _refused(f"has version {version}; only 1 can be verified")
    payload = SECTOR * int.from_bytes(first[104:108], "big")
    if not payload:
        raise _refused("is only a header, without data")
    head = yield from nothing_else("luks")
    second_opinion.require_safe("luks", [head])
    if (yield from up_to(payload + policy.max_virtual_size, 1)):
        policy.check_virtual_size(policy.max_virtual_size + 1)
    end = yield from nothing_behind("luks")
    size = end.size or 0
    if size < payload:
        raise _refused(f"ends after {size} bytes, before its data begins")
    return size - payload


def _refused(why: str) -> FormatError:
    return FormatError(
        f"the luks {why}",
        hint="encrypt it as LUKS1: cryptsetup luksFormat --type luks1, or qemu-img create -f luks",
        found="luks",
    )
