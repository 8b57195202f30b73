"""Disks in the layouts that are in use, made by hand."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Sequence
from typing import Any

from tests.plugins.oci.conftest import Repository

TAR = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
TART = "application/vnd.cirruslabs.tart.disk.v2"
CHUNK = "application/vnd.kubeswift.vmdisk.chunk.v1"


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def archive(
    files: Sequence[tuple[str, bytes]] = (), entries: Sequence[tarfile.TarInfo] = (),
    form: int = tarfile.GNU_FORMAT,
) -> bytes:  # fmt: skip
    """A layer as `ADD --chown=107:107 disk.qcow2 /disk/` makes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        folder = tarfile.TarInfo("disk/")
        folder.type, folder.mode, folder.uid, folder.gid = tarfile.DIRTYPE, 0o555, 107, 107
        tar.addfile(folder)
        for each in entries:
            tar.addfile(each)
        for path, data in files:
            info = tarfile.TarInfo(path)
            info.size, info.mode, info.uid, info.gid = len(data), 0o440, 107, 107
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def push_container(
    repository: Repository, tag: str, *layers: bytes, packed: bool = True,
    architecture: str = "amd64",
) -> dict[str, Any]:  # fmt: skip
    """A container image of these tar archives; its descriptor."""
    config = {
        "architecture": architecture, "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]},
    }  # fmt: skip
    stored = [
        repository.blob(gzip.compress(each, 1, mtime=0), f"{TAR}+gzip")
        if packed
        else repository.blob(each, TAR)
        for each in layers
    ]
    described = repository.blob(json.dumps(config).encode(), CONFIG)
    pushed = repository.push(tag, *stored, config=described)
    return {**pushed, "platform": {"os": "linux", "architecture": architecture}}


def apple_lz4(data: bytes, block: int = 64 * 1024, *, linked: bool = False) -> bytes:
    """As Apple's Compression framework packs it; `linked`: blocks refer to those before them."""
    import lz4.block

    out = bytearray()
    for start in range(0, len(data), block):
        piece = data[start : start + block]
        before = data[max(0, start - 64 * 1024) : start] if linked else b""
        packed = lz4.block.compress(piece, store_size=False, dict=before)
        if len(packed) < len(piece):
            out += b"bv41" + struct.pack("<II", len(piece), len(packed)) + packed
        else:
            out += b"bv4-" + struct.pack("<I", len(piece)) + piece
    return bytes(out + b"bv4$")


def push_tart(repository: Repository, tag: str, chunks: Sequence[bytes], **packing: Any) -> None:
    """A macOS or Linux machine as Tart pushes it."""
    layers = [repository.blob(b'{"os": "linux"}', "application/vnd.cirruslabs.tart.config.v1")]
    for chunk in chunks:
        annotations = {
            "org.cirruslabs.tart.uncompressed-size": str(len(chunk)),
            "org.cirruslabs.tart.uncompressed-content-digest": sha256(chunk),
        }
        layers.append(repository.blob(apple_lz4(chunk, **packing), TART, annotations=annotations))
    layers.append(repository.blob(b"nvram", "application/vnd.cirruslabs.tart.nvram.v1"))
    repository.push(tag, *layers)


def push_kubeswift(
    repository: Repository, tag: str, total: int, chunks: Sequence[tuple[int, bytes]]
) -> None:
    """A golden image as KubeSwift pushes it: chunks at their offsets, zeros left out."""
    config = repository.blob(
        json.dumps({"totalSize": total, "chunkSize": 65536, "format": "raw"}).encode(),
        "application/vnd.kubeswift.vmimage.config.v1+json",
    )
    layers = [
        repository.blob(data, CHUNK, annotations={"kubeswift.io/chunk-offset": str(offset)})
        for offset, data in chunks
    ]
    repository.push(
        tag, *layers, config=config, artifactType="application/vnd.kubeswift.vmimage.v1"
    )
