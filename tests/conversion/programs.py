"""Programs in the place of qemu-img: what it could do if an image had taken it over."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

#: Programs without which nothing is converted.
NEEDED = ("qemu-img", "bwrap", "prlimit", "setpriv", "sh")


def path_without(folder: Path, *missing: str) -> str:
    """A search path on which these programs are not found."""
    folder.mkdir(exist_ok=True)
    for name in NEEDED:
        if name not in missing:
            found = shutil.which(name)
            assert found is not None
            (folder / name).symlink_to(found)
    return str(folder)


def path_with(folder: Path, text: str) -> str:
    """A search path on which qemu-img is a shell script. Asked for its version it answers."""
    path = path_without(folder, "qemu-img")
    program = folder / "qemu-img"
    version = 'test "$1" = --version && exit 0\n'
    program.write_text(f"#!/bin/sh\n{version}{text}\n")
    program.chmod(0o755)
    return path


#: Answers `info` for a disk of 64 KiB, and leaves `convert` to what follows.
INFO = """test "$1" = info && echo '{"virtual-size": 65536}' && exit 0\n"""


def running(marker: str) -> list[int]:
    """The processes with this in their command lines."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in words:
                found.append(int(entry.name))
    return found
