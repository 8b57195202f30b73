"""The magic numbers by which formats are recognised: at least all that qemu looks for.

Content with a format's magic number is that format, or is refused: otherwise another program could
treat as an image what was accepted here as a plain disk.
"""

from __future__ import annotations

import re

_AT_THE_START = {
    b"QFI\xfb": "qcow2",
    b"KDMV": "vmdk",
    b"COWD": "vmdk3",
    b"conectix": "vhd",
    b"vhdxfile": "vhdx",
    b"LUKS\xba\xbe": "luks",
    b"QED\0": "qed",
    b"WithoutFreeSpace": "parallels",
    b"WithouFreSpacExt": "parallels",
    b"Bochs Virtual HD Image": "bochs",
    b"#!/bin/sh\n#V2.0 Format\n": "cloop",
}
_VDI_AT, _VDI = 0x40, b"\x7f\x10\xda\xbe"
_MBR_AT, _MBR = 510, b"\x55\xaa"
_ISO_AT = 32 * 1024
#: Formats that could hide at 32 KiB from programs that only look at the beginning.
_HIDING = (b"QFI\xfb", b"KDMV", b"vhdxfile", b"QED\0")

#: Recognised only to refuse them: nothing here can check whether they are safe.
REFUSED = frozenset({"qed", "vmdk3", "parallels", "bochs", "cloop"})


def at_the_start(first: bytes) -> set[str]:
    """The formats whose magic numbers the first sector has; none for a plain disk."""
    found = {name for mark, name in _AT_THE_START.items() if first.startswith(mark)}
    if first[_VDI_AT : _VDI_AT + 4] == _VDI:
        found.add("vdi")
    return found


def has_boot_signature(first: bytes) -> bool:
    """An MBR, the protective MBR of a GPT, or the boot sector of a file system."""
    return first[_MBR_AT : _MBR_AT + 2] == _MBR


def is_iso(head: bytes) -> bool:
    """ISO 9660 or UDF."""
    return head[_ISO_AT + 1 : _ISO_AT + 6] in (b"CD001", b"NSR02", b"NSR03")


def is_hiding(head: bytes) -> bool:
    """Whether another image begins at 32 KiB, where an ISO 9660 would begin."""
    return head[_ISO_AT:].startswith(_HIDING)


_SKIPPED = re.compile(rb"(?:[\s\0]+|#[^\n]*\n)*")
_VERSION = re.compile(rb"version[ \t]*=[ \t]*\"?\d")

_CREATE_TYPE = re.compile(rb'^[ \t]*createtype[ \t]*=[ \t]*"', re.MULTILINE)


def is_vmdk_descriptor(head: bytes) -> bool:
    """Whether this is the descriptor of a VMDK with data in other files, however disguised."""
    text = head.removeprefix(b"\xef\xbb\xbf")
    skipped = _SKIPPED.match(text)
    if _VERSION.match(text[skipped.end() if skipped else 0 :][:64].lower()):
        return True
    text = text.lstrip(b"\0 \t\r\n").partition(b"\0")[0].lower()
    if text[:64].isascii() and b'createtype="' in text:
        return True
    # Names and comments may have any characters.
    return _CREATE_TYPE.search(text) is not None or text.startswith(b"# disk descriptorfile")


def footer_of_vhd(tail: bytes) -> bytes:
    """The footer at the end of a VHD; empty if there is none."""
    # Before 2004 it had 511 bytes.
    for length in (512, 511):
        if len(tail) >= length and tail[-length:].startswith(b"conectix"):
            return tail[-length:]
    return b""
