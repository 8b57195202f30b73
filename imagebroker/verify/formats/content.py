"""Decides which format a content has, and whether it is acceptable."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from imagebroker.exceptions import FormatError
from imagebroker.verify.formats import (
    luks,
    qcow2,
    second_opinion,
    signatures,
    vdi,
    vhd,
    vhdx,
    vmdk,
)
from imagebroker.verify.formats.policy import FormatPolicy
from imagebroker.verify.formats.single import check_no_footer, nothing_else, several
from imagebroker.verify.formats.spans import HEAD, SECTOR, Piece, Reads, the_end, up_to


class Verdict(NamedTuple):
    """The format of a content, and the size of the disk in it."""

    disk_format: str
    virtual_size: int


#: The readers of formats whose header has the size of the disk.
_READERS: dict[str, Callable[[bytes, FormatPolicy], Reads[int]]] = {
    "qcow2": qcow2.virtual_size,
    "vmdk": vmdk.virtual_size,
    "vhd": vhd.virtual_size,
    "vhdx": vhdx.virtual_size,
    "vdi": vdi.virtual_size,
    "luks": luks.virtual_size,
}


def inspect(policy: FormatPolicy, declared: str | None, size: int | None) -> Reads[Verdict]:
    """Inspect a content of `size` bytes (None: unknown). :raises FormatError: not acceptable."""
    # qemu, too, treats a short file as if zeros followed.
    sector = yield from up_to(0, SECTOR)
    first = sector.ljust(SECTOR, b"\0")
    marks = signatures.at_the_start(first)
    if len(marks) > 1:
        raise several(*marks)
    if not marks:
        return (yield from _unmarked(first, policy, declared, size))
    found = marks.pop()
    if found in signatures.REFUSED:
        raise _unverifiable(found)
    policy.check_found(found, declared)
    if len(sector) < SECTOR:
        raise _cut_off(found, len(sector))
    return Verdict(found, (yield from _READERS[found](first, policy)))


def _unmarked(
    first: bytes, policy: FormatPolicy, declared: str | None, size: int | None
) -> Reads[Verdict]:
    """A plain disk, an ISO, a fixed VHD, or anything else: a guest sees these bytes as they are."""
    if declared in _READERS and declared != "vhd":
        raise _not_what_is_declared(declared)
    if signatures.is_vmdk_descriptor(first):
        raise _descriptor()
    head = yield from up_to(0, HEAD)
    if signatures.is_vmdk_descriptor(head):
        raise _descriptor()
    if signatures.is_hiding(head):
        raise several("raw", "another image at 32 KiB")
    if signatures.is_iso(head):
        policy.check_found("iso", declared)
        if len(head) < HEAD:
            raise _cut_off("iso", len(head))
        yield from nothing_else("iso")
        end = yield from _within_limit(policy, policy.max_virtual_size, size)
        check_no_footer("iso", end)
        return Verdict("iso", end.size or 0)
    if signatures.has_boot_signature(head):
        _check_boot_sector(head.ljust(HEAD, b"\0"))
    return (yield from _raw_or_fixed_vhd(policy, declared, size))


def _raw_or_fixed_vhd(
    policy: FormatPolicy, declared: str | None, size: int | None
) -> Reads[Verdict]:
    """Only the end tells: a fixed VHD is a plain disk followed by one more sector."""
    may_be_vhd = declared in (None, "vhd") and policy.allows("vhd", declared)
    if not may_be_vhd:
        policy.check_found("raw", declared)
    limit = policy.max_virtual_size + (SECTOR if declared == "vhd" else 0)
    end = yield from _within_limit(policy, limit, size)
    footer = signatures.footer_of_vhd(end.data)
    if footer and may_be_vhd:
        found, inside = "vhd", vhd.fixed_size(footer, end.size or 0)
    elif footer:
        raise vhd.fixed_but_declared(declared)
    elif declared == "vhd":
        raise _not_what_is_declared(declared)
    else:
        policy.check_found("raw", declared)
        found, inside = "raw", end.size or 0
    policy.check_virtual_size(inside)
    return Verdict(found, inside)


def _within_limit(policy: FormatPolicy, limit: int, size: int | None) -> Reads[Piece]:
    """The end of the content. :raises FormatError: it is beyond byte `limit`."""
    if (size or 0) > limit or (yield from up_to(limit, 1)):
        policy.check_virtual_size(max(size or 0, limit + 1))
    return (yield from the_end())


def _check_boot_sector(head: bytes) -> None:
    """A partition table, or the boot sector of a file system or kernel: valid or not, none of them
    can refer to a file of the host. :raises FormatError: it is another format at the same time.
    """
    others = second_opinion.recognised(head) - {"gpt"}
    if others:
        raise several("raw", *others)


def _not_what_is_declared(declared: str) -> FormatError:
    return FormatError(
        f"the content is not {declared}, as the image is declared",
        hint="do not use it; if the content is right, correct the image's disk_format",
        declared=declared,
    )


def _unverifiable(found: str) -> FormatError:
    return FormatError(
        f"the content is {found}, which cannot be verified",
        hint="if you trust it, convert it to qcow2 or raw: qemu-img convert",
        found=found,
    )


def _cut_off(found: str, size: int) -> FormatError:
    return FormatError(
        f"the {found} ends after {size} bytes, inside its header",
        hint="get the image again: it is truncated",
        found=found,
    )


def _descriptor() -> FormatError:
    return FormatError(
        "the content is a VMDK descriptor, whose data is in other files",
        hint="convert it to one file: qemu-img convert -O vmdk -o subformat=monolithicSparse",
        found="vmdk",
    )
