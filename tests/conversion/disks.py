"""Images with a disk in them, made by qemu-img, and what it makes of them itself."""

from __future__ import annotations

import hashlib
import random
import subprocess
from pathlib import Path

MIB = 1 << 20
#: Data, many zeros, data that can be compressed, zeros at the end.
DISK = (
    random.Random(1).randbytes(3 * MIB + 512)
    + bytes(20 * MIB - 512)
    + b"the same again  " * (MIB // 8)
    + random.Random(2).randbytes(70_000)
    + bytes(MIB - 70_000 + 6 * MIB)
)

#: Options of qemu-img for each kind of image.
KINDS = {
    "qcow2": ["-O", "qcow2"],
    "qcow2-compressed": ["-c", "-O", "qcow2"],
    "qcow2-zstd": ["-c", "-O", "qcow2", "-o", "compression_type=zstd"],
    "qcow2-version-2": ["-O", "qcow2", "-o", "compat=0.10"],
    "vmdk-sparse": ["-O", "vmdk", "-o", "subformat=monolithicSparse"],
    "vmdk-stream": ["-O", "vmdk", "-o", "subformat=streamOptimized"],
    "vhd-dynamic": ["-O", "vpc"],
    "vhd-exact": ["-O", "vpc", "-o", "force_size=on"],
    "vhd-fixed": ["-O", "vpc", "-o", "subformat=fixed,force_size=on"],
    "vhdx": ["-O", "vhdx"],
    "vdi": ["-O", "vdi"],
    "vdi-static": ["-O", "vdi", "-o", "static=on"],
}  # fmt: skip
#: What qemu calls what is called otherwise here.
DRIVERS = {"vhd": "vpc"}


def made(kind: str, folder: Path, disk: bytes = DISK) -> bytes:
    """An image of that kind."""
    (folder / "disk").write_bytes(disk)
    _qemu_img(folder, "-f", "raw", *KINDS[kind], "disk", "made")
    return (folder / "made").read_bytes()


def converted(image: bytes, kind: str, folder: Path) -> bytes:
    """What qemu-img itself unpacks it to."""
    (folder / "image").write_bytes(image)
    driver = kind.partition("-")[0]
    _qemu_img(folder, "-f", DRIVERS.get(driver, driver), "-O", "raw", "image", "theirs")
    return (folder / "theirs").read_bytes()


def _qemu_img(folder: Path, *words: str) -> None:
    subprocess.run(["qemu-img", "convert", *words], cwd=folder, check=True, capture_output=True)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
