"""The judgement over one content, from its first byte to its last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
from imagebroker.verify.formats.single import nothing_behind, nothing_else, several
from imagebroker.verify.formats.spans import HEAD, SECTOR, Reads, up_to


@dataclass(frozen=True)
class Verdict:
    """What the content is."""

    disk_format: str
    virtual_size: int


#: Readers of the formats that describe a disk, and say how large it is.
_READERS: dict[str, Callable[[bytes, FormatPolicy], Reads[int]]] = {
    "qcow2": qcow2.virtual_size,
    "vmdk": vmdk.virtual_size,
    "vhd": vhd.virtual_size,
    "vhdx": vhdx.virtual_size,
    "vdi": vdi.virtual_size,
    "luks": luks.virtual_size,
}


def inspect(policy: FormatPolicy, declared: str | None, size: int | None) -> Reads[Verdict]:
    """What the content of `size` bytes (None: unknown) is. :raises FormatError: unacceptable."""
    # qemu, too, sees a short file as if it went on with zeros.
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
    """A plain disk, an ISO, or anything: the bytes themselves are what a guest would see."""
    if declared in _READERS:
        raise FormatError(
            f"the content is not {declared}, which the image is declared to be",
            hint="do not use it; correct disk_format if the content is what was meant",
            declared=declared,
        )
    if signatures.is_vmdk_descriptor(first):
        raise _descriptor()
    head = yield from up_to(0, HEAD)
    if signatures.is_vmdk_descriptor(head):
        raise _descriptor()
    found = "iso" if signatures.is_iso(head) else "raw"
    if signatures.is_hiding(head):
        raise several(found, "another image at 32 KiB")
    policy.check_found(found, declared)
    if found == "iso":
        if len(head) < HEAD:
            raise _cut_off(found, len(head))
        yield from nothing_else("iso")
    elif signatures.has_boot_signature(head):
        _check_boot_sector(head.ljust(HEAD, b"\0"), declared)
    policy.check_virtual_size(size or 0)
    if (yield from up_to(policy.max_virtual_size, 1)):
        policy.check_virtual_size(policy.max_virtual_size + 1)
    end = yield from nothing_behind(found)
    return Verdict(found, end.size or 0)


def _check_boot_sector(head: bytes, declared: str | None) -> None:
    """A partition table has to be a sound one; kernels only look as if they had one."""
    others = second_opinion.recognised(head)
    if others - {"gpt"}:
        raise several("raw", *others)
    kernel = declared in ("aki", "ari") or signatures.is_linux_kernel(head)
    if "gpt" in others and not kernel:
        second_opinion.require_safe("gpt", [head])


def _unverifiable(found: str) -> FormatError:
    return FormatError(
        f"the content is {found}, which cannot be verified",
        hint="convert it with qemu-img convert on a host where you trust it",
        found=found,
    )


def _cut_off(found: str, size: int) -> FormatError:
    return FormatError(
        f"the {found} ends after {size} bytes, inside its header",
        hint="the image is cut off",
        found=found,
    )


def _descriptor() -> FormatError:
    return FormatError(
        "the content is a VMDK descriptor, whose data would be other files",
        hint="publish one file instead: qemu-img convert -O vmdk -o subformat=monolithicSparse",
        found="vmdk",
    )
