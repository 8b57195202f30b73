"""What KubeVirt's importer does with an image in a registry, by the rules that its sources have.

Its binary is in no distribution. It reads registries through the same library as skopeo
(containers/image), which does that part here; what it does with what it has read is written again:

- A container image must have a config that names the architecture asked for, if any, and none of
  the labels of bootable containers.
- Each layer is decompressed if its first bytes say so, and read as a tar stream. The disk is the
  first entry below `disk` (or `./disk`) that is neither a directory nor a whiteout (`.wh.`). A layer
  that is no archive is passed over.
- Older releases want it to be the only file there.
- Of an artefact, the one layer whose annotations are those asked for is the disk, as it is.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BOOTABLE = ("containers.bootc", "ostree.bootable")


class NoDisk(Exception):
    """What the importer would say."""


def import_container(ref: str, folder: Path, architecture: str = "") -> bytes:
    """The disk that it finds in the container image at `docker://…`."""
    info = json.loads(_skopeo("inspect", "--tls-verify=false", ref))
    if architecture and info["Architecture"] != architecture:
        raise NoDisk(f"the image is for {info['Architecture']}")
    if any((info.get("Labels") or {}).get(name) == "1" for name in _BOOTABLE):
        raise NoDisk("the image is a bootable container")
    for layer in _copied(ref, folder)["layers"]:
        found = _in_layer(folder / layer["digest"].partition(":")[2])
        if found is not None:
            return found
    raise NoDisk("no file below disk")


def import_artifact(ref: str, folder: Path, annotations: Mapping[str, str]) -> bytes:
    """The layer of the artefact at `docker://…` that has these annotations."""
    found = [
        layer
        for layer in _copied(ref, folder)["layers"]
        if annotations.items() <= (layer.get("annotations") or {}).items()
    ]
    if len(found) != 1 or not annotations:
        raise NoDisk(f"{len(found)} layers have these annotations")
    return (folder / found[0]["digest"].partition(":")[2]).read_bytes()


def _in_layer(blob: Path) -> bytes | None:
    try:
        with blob.open("rb") as file, tarfile.open(fileobj=file, mode="r|*") as archive:
            found = [
                (entry.name, content.read())
                for entry in archive
                if _is_wanted(entry) and (content := archive.extractfile(entry)) is not None
            ]
    except tarfile.TarError:
        return None
    if len(found) > 1:
        raise NoDisk(f"several files: {[name for name, _ in found]}")
    return found[0][1] if found else None


def _is_wanted(entry: tarfile.TarInfo) -> bool:
    name = entry.name.removeprefix("./")
    return (
        name.startswith("disk")
        and not name.rpartition("/")[2].startswith(".wh.")
        and not entry.isdir()
    )


def _copied(ref: str, folder: Path) -> Any:
    """The manifest; each blob is below `folder`, named like its digest, which was checked."""
    _skopeo("copy", "--src-tls-verify=false", ref, f"dir:{folder}")
    return json.loads((folder / "manifest.json").read_text())


def _skopeo(*arguments: str) -> str:
    return subprocess.run(
        ["skopeo", *arguments], check=True, capture_output=True, text=True, timeout=120
    ).stdout
