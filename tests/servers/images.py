"""Files to serve: fast, and the same every time."""

from __future__ import annotations

import hashlib
import random
import shutil
import subprocess
from pathlib import Path

CHUNK = 1 << 20


def missing() -> str | None:
    """Return what to install for ``make_qcow2``, or None."""
    if shutil.which("qemu-img") is None:
        return "qemu-img is not installed: apt-get install qemu-utils"
    return None


def random_file(path: Path, size: int, seed: int = 0) -> Path:
    """Write ``size`` bytes that depend on the seed alone and do not compress."""
    with path.open("wb") as file:
        for start in range(0, size, CHUNK):
            # Twice as fast as the module random, and as deterministic.
            block = hashlib.shake_128(f"{seed} {start}".encode())
            file.write(block.digest(min(CHUNK, size - start)))
    return path


def make_qcow2(path: Path, size: int, *, data: int = CHUNK, seed: int = 0) -> Path:
    """Make a qcow2 image of the virtual ``size`` that has random bytes at its start and its end.

    ``data`` is how many of them there are, if the size has room for so many.
    """
    raw = path.with_name(path.name + ".raw")
    numbers = random.Random(seed)
    half = min(data, size) // 2
    try:
        with raw.open("wb") as file:
            file.write(numbers.randbytes(half))
            file.seek(size - half)
            file.write(numbers.randbytes(half))
            file.truncate(size)
        convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
        subprocess.run([*convert, raw, path], check=True, capture_output=True)
    finally:
        raw.unlink(missing_ok=True)
    return path
