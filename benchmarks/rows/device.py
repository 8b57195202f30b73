"""A block device as destination. Devices need root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import peers
from benchmarks.bench import GIB, MIB, Bench, Image, Unmeasured
from benchmarks.contest import Goal, Row, RunError
from benchmarks.rows.http import LIMITED, config
from benchmarks.rows.local import start_up

#: The part of the image that is data.
_DATA = 0.1


@contextmanager
def sparse(bench: Bench) -> Iterator[Row]:
    """From a web server of this host, beside writing its data alone past the page cache."""
    size = 8 * GIB
    with (
        bench.sparse_image(size, _DATA) as image,
        bench.image(round(size * _DATA), "data.raw") as data,
        _loop_device(bench, image.size) as device,
    ):
        url = bench.nginx(LIMITED).url(image.path.name)
        words = url, device, "--to-device", "--checksum", f"sha256:{image.digest()}"
        direct = f"of={device}", f"bs={MIB}", "oflag=direct", "conv=fsync"
        contenders = [
            peers.ours(config(bench), "-q", "download", *words),
            peers.command("dd oflag=direct, its data", ["dd", f"if={data.path}", *direct]),
            peers.command("dd oflag=direct, all of it", ["dd", f"if={image.path}", *direct]),
        ]
        title = f"http, {bench.size_text(size)}, 90 % zeros, to a block device, start-up apart"
        goals = [Goal(1.15, contenders[1].name, less=start_up(bench))]
        yield Row(title, contenders, goals, check=_OnDevice(image, device), rounds=3)


class _OnDevice:
    """Whether the device holds the image, once: afterwards `dd` writes other things there."""

    def __init__(self, image: Image, device: Path) -> None:
        self._image, self._device, self._looked = image, device, False

    def __call__(self) -> None:
        if self._looked:
            return
        self._looked = True
        compared = ["cmp", "-n", str(self._image.size), self._image.path, self._device]
        if subprocess.run(compared, check=False, stdout=subprocess.DEVNULL).returncode:
            raise RunError("the device does not have the image")


@contextmanager
def _loop_device(bench: Bench, size: int) -> Iterator[Path]:
    """A device over a file whose blocks exist.

    :raises Unmeasured: there is none here.
    """
    if os.geteuid() != 0:
        raise Unmeasured("loop devices need root")
    file = bench.folder / "device.img"
    with file.open("wb") as made:
        os.posix_fallocate(made.fileno(), 0, size)
    try:
        losetup = ["losetup", "--find", "--show", "--direct-io=on", file]
        found = subprocess.run(losetup, capture_output=True, text=True, check=False)
        if found.returncode:
            raise Unmeasured(f"no loop device: {found.stderr.strip()}")
        device = Path(found.stdout.strip())
        try:
            yield device
        finally:
            subprocess.run(["losetup", "--detach", device], check=True)
    finally:
        file.unlink()
