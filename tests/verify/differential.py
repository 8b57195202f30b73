"""Our verdict against that of qemu-img, which opens what we accept.

For a campaign: ``python -m tests.verify.differential --count 10000``. It prints every image that
we accept as something else than qemu-img takes it for, and exits 1 if there is one.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.verify.judging import verdict
from tests.verify.mutations import mutated

#: qemu's names for what we accept.
QEMU = {"raw": "raw", "iso": "raw", "vhd": "vpc"}
#: Nothing that qemu-img finds in an image may cost more than this.
SANDBOX = ["prlimit", "--as=2147483648", "--cpu=10", "--fsize=0", "--core=0", "timeout", "10"]
DECLARED = (None, "raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso", "luks")


@dataclass(frozen=True)
class Disagreement:
    """We accept, and somebody else sees something else."""

    number: int
    made_of: str
    ours: dict[str, Any]
    theirs: str

    def __str__(self) -> str:
        return f"image {self.number} ({self.made_of}): we say {self.ours}, {self.theirs}"


def accepted(data: bytes) -> dict[str, Any] | None:
    """Our verdict, if there is any declaration under which we accept the image."""
    found = [said for said in (verdict(data, name) for name in DECLARED) if isinstance(said, dict)]
    for other in found[1:]:
        assert other == found[0], f"two verdicts: {found[0]} and {other}"
    return found[0] if found else None


def qemu_objects_to(path: Path, ours: dict[str, Any]) -> str | None:
    """What qemu-img sees in the file, if that is not what we accepted."""
    expected = QEMU.get(ours["disk_format"], ours["disk_format"])
    fixed = expected == "vpc" and not _begins_with(path, b"conectix")
    if fixed:  # qemu knows one only if it is told, and then goes by the geometry
        return _objects_to_fixed(path, ours["virtual_size"])
    run = _info(path)
    if run.returncode:
        # A damaged image that qemu refuses harms nobody, as long as it refuses it as what it is.
        if expected != "raw" and _info(path, "-f", expected).returncode == run.returncode:
            return None
        return f"qemu-img fails: {run.stderr.strip()[:300]}"
    info = json.loads(run.stdout)
    if info["format"] != expected:
        return f"qemu-img says {info['format']}"
    for key in ("backing-filename", "full-backing-filename"):
        if key in info:
            return f"qemu-img sees a backing file: {info[key]!r}"
    details = info.get("format-specific", {}).get("data", {})
    if "data-file" in details:
        return f"qemu-img sees a data file: {details['data-file']!r}"
    for extent in details.get("extents", []):
        if extent["filename"] != str(path):
            return f"qemu-img sees an extent {extent['filename']!r}"
    size = -(-ours["virtual_size"] // 512) * 512
    if info["virtual-size"] != size:
        return f"qemu-img says that the disk has {info['virtual-size']} bytes"
    return None


def _begins_with(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(mark)) == mark


def _objects_to_fixed(path: Path, size: int) -> str | None:
    """Undeclared it must be plain bytes to qemu, and declared no more than we say."""
    for name, most in (("raw", size + 512), ("vpc", size)):
        run = _info(path, *(["-f", name] if name == "vpc" else []))
        if run.returncode:
            return f"qemu-img fails: {run.stderr.strip()[:300]}"
        info = json.loads(run.stdout)
        if info["format"] != name or info["virtual-size"] > most:
            return f"qemu-img says {info['format']} of {info['virtual-size']} bytes"
    return None


def _info(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*SANDBOX, "qemu-img", "info", "--output=json", *options, str(path)]
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", cwd=path.parent
    )


def oslo_objects_to(data: bytes, ours: dict[str, Any]) -> str | None:
    """What OpenStack's services would say to an image that we accepted.

    What it takes for a partition table is a plain disk, whatever it thinks of the partitions.
    """
    data = _without_letters(data) if data.startswith(b"KDMV") else data
    matching = dict(_oslo_matches(data))
    names = set(matching)
    if ours["disk_format"] == "iso":
        return None if names in ({"iso"}, {"iso", "gpt"}) else f"oslo.utils says {names}"
    plain = ours["disk_format"] == "raw" or not data.startswith(b"conectix")
    if ours["disk_format"] in ("raw", "vhd") and plain:
        return None if names <= {"gpt"} else f"oslo.utils says {names}"
    if names != {ours["disk_format"]}:
        return f"oslo.utils says {names or 'raw'}"
    try:
        matching.popitem()[1].safety_check()
    except Exception as error:
        return f"oslo.utils objects: {error!r}"
    return None


def _oslo_matches(data: bytes) -> Iterator[tuple[str, Any]]:
    """Its inspectors that know the content. (Its wrapper of them fails on short text.)"""
    from oslo_utils.imageutils import format_inspector

    for name, kind in format_inspector.ALL_FORMATS.items():
        inspector = kind()
        try:
            inspector.eat_chunk(data)
            inspector.finish()
            matches = name != "raw" and inspector.format_match
        except Exception:  # its way to say no
            continue
        if matches:
            yield name, inspector


def _without_letters(data: bytes) -> bytes:
    """Its inspector knows descriptors in ASCII only."""
    sectors = int.from_bytes(data[36:44], "little")
    stop = 512 * (1 + min(sectors, 128))
    return data[:512] + re.sub(rb"[\x80-\xff]", b"?", data[512:stop]) + data[stop:]


def disagreements(numbers: Iterable[int], seen: Counter[str]) -> Iterator[Disagreement]:
    """Among the mutated images of these numbers; counts verdicts in `seen`."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda number: _examined(number, Path(folder), seen), numbers):
            if found is not None:
                yield found


def _examined(number: int, folder: Path, seen: Counter[str]) -> Disagreement | None:
    made_of, data = mutated(number)
    ours = accepted(data)
    seen[ours["disk_format"] if ours else "refused"] += 1
    if ours is None:
        return None
    path = folder / f"image-{number}"
    path.write_bytes(data)
    try:
        theirs = oslo_objects_to(data, ours) or qemu_objects_to(path, ours)
    finally:
        path.unlink()
    return Disagreement(number, made_of, ours, theirs) if theirs else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="how many images")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    options = parser.parse_args()
    logging.disable()  # the inspector comments on what it refuses
    seen: Counter[str] = Counter()
    failed = 0
    for found in disagreements(range(options.first, options.first + options.count), seen):
        failed += 1
        print(found, flush=True)
    print(f"{options.count} images: {dict(seen.most_common())}; {failed} disagreements")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
