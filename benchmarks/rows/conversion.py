"""An image that is wanted as a raw disk."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from benchmarks import peers
from benchmarks.bench import GIB, Bench, Image
from benchmarks.contest import Goal, Row
from benchmarks.rows.http import LIMITED, config, ours


@contextmanager
def convert(bench: Bench) -> Iterator[Row]:
    """From a compressed qcow2 of a disk of which half is data, on a web server of this host."""
    dest, between = bench.dest(), bench.dest("image.qcow2")
    with bench.sparse_image(2 * GIB, 0.5) as disk:
        packed = bench.images / "image.qcow2"
        pack = ["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2"]
        subprocess.run([*pack, disk.path, packed], check=True)
        try:
            url, image = bench.nginx(LIMITED).url(packed.name), Image(packed)
            unpack = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", between, dest]
            checksum = f"sha256:{image.digest()}"
            download = peers.imagebroker(
                "--config-file",
                config(bench),
                "-q",
                "download",
                url,
                between,
                "--checksum",
                checksum,
            )
            theirs = [
                peers.command("download, then qemu-img convert", download, unpack),
                peers.command(
                    "curl, then sha256sum, then qemu-img convert",
                    ["curl", "-sSf", "-o", between, url], ["sha256sum", between], unpack,
                ),
            ]  # fmt: skip
            contenders = [
                ours(bench, url, image, words=("--convert", "raw")),
                *(replace(peers.synced(each, dest), made=[between]) for each in theirs),
            ]
            title = f"compressed qcow2 of {bench.size_text(2 * GIB)}, half of it data, to raw"
            goals = [Goal(1.1, theirs[0].name)]
            yield Row(title, contenders, goals, dest, disk.checker(dest))
        finally:
            packed.unlink()
            between.unlink(missing_ok=True)
