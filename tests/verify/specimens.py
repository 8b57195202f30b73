"""Disk images to judge: real ones from qemu-img, and those that it does not make."""

from __future__ import annotations

import functools
import io
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

KIB, MIB = 1024, 1024 * 1024
#: Bytes of the disk inside each.
VIRTUAL = 4 * MIB
#: Where qemu-img puts the metadata of a VHDX.
VHDX_METADATA_AT = 3 * MIB

#: What qemu-img makes, under our name for the format.
_REAL = {
    "qcow2": ["-f", "qcow2"],
    "qcow2 of version 2": ["-f", "qcow2", "-o", "compat=0.10"],
    "qcow2 with zstd": ["-f", "qcow2", "-o", "compression_type=zstd"],
    "qcow2 with large clusters": ["-f", "qcow2", "-o", "cluster_size=2M"],
    "vmdk": ["-f", "vmdk"],
    "vmdk streamOptimized": ["-f", "vmdk", "-o", "subformat=streamOptimized"],
    "vhd": ["-f", "vpc"],
    "vhd of the exact size": ["-f", "vpc", "-o", "force_size=on"],
    "vhd fixed": ["-f", "vpc", "-o", "subformat=fixed,force_size=on"],
    "vhdx": ["-f", "vhdx", "-o", "block_size=1M"],
    "vhdx fixed": ["-f", "vhdx", "-o", "subformat=fixed"],
    "vdi": ["-f", "vdi"],
    "vdi static": ["-f", "vdi", "-o", "static=on"],
}  # fmt: skip
#: What qemu-img makes and nothing can verify.
_REFUSED = {
    "qcow": ["-f", "qcow"],
    "qed": ["-f", "qed"],
    "parallels": ["-f", "parallels"],
    "vmdk monolithicFlat": ["-f", "vmdk", "-o", "subformat=monolithicFlat"],
    "vmdk twoGbMaxExtentSparse": ["-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"],
    "qcow2 with extended L2": ["-f", "qcow2", "-o", "extended_l2=on"],
    "qcow2 with a data file": ["-f", "qcow2", "-o", "data_file=data.raw"],
}  # fmt: skip


@functools.cache
def real(name: str) -> bytes:
    """An image made by qemu-img."""
    with tempfile.TemporaryDirectory() as folder:
        return _created(Path(folder), {**_REAL, **_REFUSED}[name])


def _created(folder: Path, options: list[str]) -> bytes:
    create = ["qemu-img", "create", "-q", *options, "image", str(VIRTUAL)]
    subprocess.run(create, cwd=folder, check=True, capture_output=True)
    return (folder / "image").read_bytes()


@functools.cache
def overlay(kind: str) -> bytes:
    """An image of the format `kind` (qemu's name) with a backing file."""
    with tempfile.TemporaryDirectory() as folder:
        for name, options in (("base", []), ("image", ["-b", "base", "-F", kind])):
            create = ["qemu-img", "create", "-q", "-f", kind, *options, name]
            size = [] if options else [str(VIRTUAL)]
            subprocess.run([*create, *size], cwd=folder, check=True, capture_output=True)
        return (Path(folder) / "image").read_bytes()


def luks(size: int = MIB, *, version: int = 1) -> bytes:
    """The header of LUKS and noise; qemu-img needs seconds of key stretching for one."""
    header = struct.pack(
        ">6sH32s32s32sII20s32sI40s",
        b"LUKS\xba\xbe", version, b"aes", b"xts-plain64", b"sha256", 4096, 64, b"d" * 20,
        b"s" * 32, 1000, b"12345678-1234-1234-1234-123456789012",
    )  # fmt: skip
    for slot in range(8):
        header += struct.pack(">II32sII", 0x0000DEAD, 0, b"", 8 + 512 * slot, 4000)
    return header.ljust(4096 * 512, b"\0") + b"\xa5" * size


def raw(size: int = MIB) -> bytes:
    """No format at all."""
    return b"no disk format".ljust(size, b"\x5a")


def mbr(size: int = MIB, kind: int = 0x83, chs: bytes = b"\0\x02\0", **fields: int) -> bytes:
    """A plain disk with one partition."""
    entry = struct.pack(
        "<B3sB3sII", fields.get("boot", 0), chs, kind, b"\0\0\0", 1, size // 512 - 1
    )
    return (bytes(446) + entry).ljust(510, b"\0") + b"\x55\xaa" + bytes(size - 512)


def gpt(size: int = MIB) -> bytes:
    """A plain disk with a GPT."""
    return over(mbr(size, 0xEE), 512, b"EFI PART\0\0\1\0\x5c\0\0\0")


def iso(size: int = 64 * KIB) -> bytes:
    """An ISO 9660 file system, as far as its volume descriptor."""
    blocks = struct.pack("<I", size // 2048) + struct.pack(">I", size // 2048)
    descriptor = b"\1CD001\1".ljust(80, b"\0") + blocks
    descriptor = descriptor.ljust(128, b"\0") + struct.pack("<H", 2048) + struct.pack(">H", 2048)
    return (bytes(32 * KIB) + descriptor).ljust(size, b"\0")


def kernel() -> bytes:
    """A Linux kernel of x86, as far as its boot sector."""
    return over(over(over(raw(64 * KIB), 440, b"\x99" * 70), 510, b"\x55\xaa"), 0x202, b"HdrS")


def fat() -> bytes:
    """A file system without a partition table: its boot sector is signed, too."""
    sector = over(over(over(bytes(512), 0x10, b"\2"), 0x15, b"\xf8"), 510, b"\x55\xaa")
    return over(sector, 446, b"\x77" * 64) + bytes(MIB)


def bochs() -> bytes:
    text = b"Bochs Virtual HD Image".ljust(32, b"\0") + b"Redolog".ljust(16, b"\0")
    head = text + b"Growing".ljust(16, b"\0")
    return (head + struct.pack("<IIIIII", 0x20000, 512, 1, 1, 4096, 0)).ljust(64 * KIB, b"\0")


def cloop() -> bytes:
    script = "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1"
    return script.encode().ljust(128, b"\n") + bytes(64 * KIB)


DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=fffffffe
parentCID=ffffffff
createType="monolithicFlat"

# Extent description
RW 8192 FLAT "/etc/passwd" 0

# The Disk Data Base
#DDB
ddb.adapterType = "ide"
"""


def tar() -> bytes:
    """An OVA is one."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("disk.vmdk"), io.BytesIO())
    return target.getvalue()


def streamed_vmdk() -> bytes:
    """A VMDK whose header points to a footer, as VMware exports them."""
    image = real("vmdk streamOptimized")
    header = over(image[:512], 56, b"\xff" * 8)
    marker = struct.Struct("<QII496s")
    return (
        header + image[512:] + marker.pack(1, 0, 3, b"") + image[:512] + marker.pack(0, 0, 0, b"")
    )


#: Images with the `disk_format` that is right for them: every reader's way to a yes.
ACCEPTED: dict[str, tuple[str, Callable[[], bytes]]] = {
    **{name: (name.split()[0], functools.partial(real, name)) for name in _REAL},
    "vmdk with a footer": ("vmdk", streamed_vmdk),
    "luks": ("luks", luks),
    "iso": ("iso", iso),
    "iso for a USB stick": ("iso", lambda: over(iso(), 0, mbr(512))),
    "raw": ("raw", raw),
    "a disk with an MBR": ("raw", mbr),
    "a disk with a GPT": ("raw", gpt),
    "a file system without partitions": ("raw", fat),
    "a kernel": ("raw", kernel),
    "gzip": ("raw", lambda: b"\x1f\x8b\x08" + raw()),
    "xz": ("raw", lambda: b"\xfd7zXZ\0" + raw()),
    "tar": ("raw", tar),
    "dmg": ("raw", lambda: raw() + b"koly".ljust(512, b"\0")),
    "text": ("raw", lambda: b"#!/bin/sh\necho hello\n" * 10),
}
#: Images that must not be accepted, whatever they are declared as.
NEVER: dict[str, Callable[[], bytes]] = {
    **{name: functools.partial(real, name) for name in _REFUSED},
    "qcow2 with a backing file": lambda: overlay("qcow2"),
    "vmdk with a parent": lambda: overlay("vmdk"),
    "LUKS2": lambda: luks(version=2),
    "bochs": bochs,
    "cloop": cloop,
    "COWD": lambda: b"COWD" + bytes(64 * KIB),
    "vmdk descriptor": DESCRIPTOR.encode,
}


def over(data: bytes, at: int, patch: bytes) -> bytes:
    """The same bytes but for `patch`."""
    data = data.ljust(at, b"\0")
    return data[:at] + patch + data[at + len(patch) :]


def patched(data: bytes, at: int, layout: str, *values: int) -> bytes:
    """The same bytes but for some integers."""
    return over(data, at, struct.pack(layout, *values))


def described(text: str, encoding: str = "utf-8", *, sectors: int = 20) -> bytes:
    """A VMDK with another descriptor."""
    image = patched(real("vmdk"), 36, "<Q", sectors)
    return over(image, 512, text.encode(encoding).ljust(min(sectors, 128) * 512, b"\0"))
