"""Plain disks as the tools of their formats make them, and what else those tools make."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

#: Program to package.
TOOLS = {
    "sfdisk": "fdisk", "sgdisk": "gdisk", "mkfs.vfat": "dosfstools", "mkfs.ntfs": "ntfs-3g",
    "mkfs.exfat": "exfatprogs", "mkfs.ext4": "e2fsprogs", "mkudffs": "udftools",
    "syslinux": "syslinux", "mcopy": "mtools", "xorriso": "xorriso", "cryptsetup": "cryptsetup-bin",
}  # fmt: skip
MIB = 1 << 20
#: The boot code that syslinux brings for the first sector of a disk.
_BOOT_CODE = Path("/usr/lib/SYSLINUX")
_ENVIRONMENT = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}


def missing() -> str | None:
    """What to install, or None."""
    packages = [
        package
        for program, package in TOOLS.items()
        if shutil.which(program, path=_ENVIRONMENT["PATH"]) is None
    ]
    return f"apt-get install {' '.join(packages)}" if packages else None


def run(*command: str | Path, data: str = "") -> None:
    subprocess.run(
        command, input=data.encode(), check=True, capture_output=True, env=_ENVIRONMENT
    )  # fmt: skip


def _empty(folder: Path, size: int = 40 * MIB) -> Path:
    path = folder / "disk"
    path.touch()
    os.truncate(path, size)
    return path


def _partitioned(folder: Path, script: str) -> Path:
    path = _empty(folder)
    run("sfdisk", "-q", path, data=script)
    return path


def _with_boot_code(path: Path, name: str) -> Path:
    with path.open("r+b") as file:
        file.write((_BOOT_CODE / name).read_bytes()[:440])
    return path


def _hybrid(folder: Path) -> Path:
    path = _partitioned(folder, "label: gpt\n,10M\n,,\n")
    run("sgdisk", "-h", "1", path)
    return path


def _file_system(*command: str, size: int = 40 * MIB) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = _empty(folder, size)
        run(*command, path)
        return path

    return make


def _syslinux(folder: Path) -> Path:
    path = _file_system("mkfs.vfat", size=1440 * 1024)(folder)
    run("syslinux", "--install", path)
    return path


#: What a guest would boot from, or mount, and nothing a host would follow.
PLAIN: dict[str, Callable[[Path], Path]] = {
    "GPT": lambda folder: _partitioned(folder, "label: gpt\n,10M\n,,\n"),
    "GPT with a hybrid MBR": _hybrid,
    "GPT with boot code": lambda folder: _with_boot_code(PLAIN["GPT"](folder), "gptmbr.bin"),
    "MBR without partitions": lambda folder: _partitioned(folder, "label: dos\n"),
    "MBR with logical partitions": lambda f: _partitioned(f, "label: dos\n,9M\n,,E\n,4M\n,4M\n"),
    "MBR with boot code": lambda folder: _with_boot_code(
        _partitioned(folder, "label: dos\n,,,*\n"), "mbr.bin"
    ),
    "disk label of a Sun": lambda folder: _partitioned(folder, "label: sun\n,10M\n"),
    "floppy": _file_system("mkfs.vfat", size=1440 * 1024),
    "floppy of 720 KiB": _file_system("mkfs.vfat", size=720 * 1024),
    "floppy that boots": _syslinux,
    "FAT32": _file_system("mkfs.vfat", "-F", "32"),
    "NTFS": _file_system("mkfs.ntfs", "-qF"),
    "exFAT": _file_system("mkfs.exfat"),
    "ext4": _file_system("mkfs.ext4", "-q"),
    "UDF": _file_system("mkudffs"),
}


def hybrid_iso(folder: Path) -> Path:
    """It boots from a CD and, by its MBR and GPT, from a USB stick."""
    system, content, path = folder / "efi", folder / "content", folder / "iso"
    content.mkdir()
    (content / "file").write_text("text\n")
    _file_system("mkfs.vfat", size=1440 * 1024)(folder).rename(system)
    run(
        "xorriso", "-as", "mkisofs", "-o", path, "-append_partition", "2", "0xef", system,
        "-appended_part_as_gpt", content,
    )  # fmt: skip
    return path


def luks(folder: Path, version: int) -> Path:
    path = _empty(folder, 20 * MIB)
    run(
        "cryptsetup", "luksFormat", "-q", "--type", f"luks{version}", "--pbkdf", "pbkdf2",
        "--pbkdf-force-iterations", "1000", path, "-", data="password",
    )  # fmt: skip
    return path


def fixed_vhd(folder: Path, disk: Path, *options: str) -> Path:
    """The footer of Azure behind a disk."""
    path = folder / "disk.vhd"
    chosen = ",".join(("subformat=fixed", *(options or ("force_size=on",))))
    run("qemu-img", "convert", "-f", "raw", "-O", "vpc", "-o", chosen, disk, path)
    return path
