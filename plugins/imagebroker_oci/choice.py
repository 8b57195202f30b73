"""Which manifest of an index, and which disk of a manifest; what is there if none fits."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from imagebroker.plugin import ImageNotFound, InvalidImageRef, UnsupportedOperation, printable
from imagebroker_oci.manifests import EMPTY, Descriptor, Document
from imagebroker_oci.names import Choice, Name

#: What uname calls an architecture, and what Go and OCI call it.
_ARCHITECTURES = {
    "x86_64": "amd64", "x64": "amd64", "aarch64": "arm64", "armv8": "arm64", "i686": "386",
    "i386": "386", "armv7l": "arm", "armhf": "arm",
}  # fmt: skip
TART = "application/vnd.cirruslabs.tart.disk.v2"
TART_OLD = "application/vnd.cirruslabs.tart.disk.v1"
KUBESWIFT = "application/vnd.kubeswift.vmdisk.chunk.v1"
KUBESWIFT_CONFIG = "application/vnd.kubeswift.vmimage.config.v1+json"
_CHUNKS = (TART, KUBESWIFT)
_TAR = re.compile(
    r"application/vnd\.(?:oci\.image\.layer\.(?:nondistributable\.)?v1\.tar"
    r"|docker\.image\.rootfs\.(?:foreign\.)?diff\.tar)(?:[.+](gzip|zstd))?"
)
#: A layer that the media type calls a disk: KubeVirt's, OCM's, lf-edge's, our own.
_DISK = re.compile(
    r"application/(?:.*disk.*[.+](?P<format>raw|qcow2?|vmdk|vhdx?|vdi|iso|img)|x-(?P<plain>qemu-disk|qcow2))"
    r"(?:[.+](?P<coding>gzip|zstd|xz))?"
)
#: Names of files that are disks.
_FILE = re.compile(
    r".*\.(?P<format>raw|img|qcow2|vmdk|vhdx?|vdi|iso)(?:\.(?:gz|zst|zstd|xz|bz2))?", re.IGNORECASE
)
_FORMATS = {"img": "raw", "qcow": "qcow2", "qemu-disk": "qcow2", "vhd": "vpc"}
#: What ORAS says of a directory that it has packed.
_UNPACK = "io.deis.oras.content.unpack"
#: What signs or describes an image and is none.
_ABOUT = ("vnd.docker.reference.type", "attestation-manifest")
#: What is there, in the text of an error.
_MAX_SHOWN = 12


@dataclass(frozen=True)
class Disk:
    """Where the bytes of a disk are."""

    #: `blob`: one layer has them. `tar`: a file in one of the layers has them. `chunks`: each layer
    #: has a part of them.
    layout: str
    layers: tuple[Descriptor, ...]
    disk_format: str | None = None


def tar_coding(layer: Descriptor) -> str | None:
    """`tar`, `gzip` or `zstd` if a layer is part of the files of a container; None if it is not."""
    match = _TAR.fullmatch(layer.media_type)
    return None if match is None else match[1] or "tar"


def chosen(name: Name, index: Document, choice: Choice) -> Descriptor:
    """The manifest in an index.

    :raises ImageNotFound: none fits; the error lists what there is.
    :raises InvalidImageRef: several fit.
    """
    every = [each for each in index.manifests if not _is_about_another(each)]
    fitting: Sequence[Descriptor] = every
    if choice.disktype is not None:
        fitting = [each for each in fitting if _disktype(each) == choice.disktype.lower()]
    if choice.arch is not None:
        fitting = [each for each in fitting if _arch(each) == canonical(choice.arch)]
    elif len({_arch(each) for each in fitting}) > 1:
        own = canonical(platform.machine())
        fitting = [each for each in fitting if _arch(each) in (own, "")]
    if len(fitting) == 1:
        return fitting[0]
    there = _shown(fitting or every, _manifest_text)
    if not fitting:
        raise ImageNotFound(
            f"{name} has no image for {_wanted(choice)}; it has {there}",
            hint="choose one of them with disktype= and arch= in the query of the ref",
        )
    raise InvalidImageRef(
        f"{name} has several images for {_wanted(choice)}: {there}",
        hint="choose one of them with disktype= in the query, or with its digest: @sha256:…",
    )


def disk_of(name: Name, manifest: Document, choice: Choice) -> Disk:
    """The disk in a manifest.

    :raises ImageNotFound: there is none that fits.
    :raises InvalidImageRef: there are several.
    :raises UnsupportedOperation: it is in a form that cannot be read.
    """
    layers = manifest.layers
    if any(each.media_type == TART_OLD for each in layers):
        raise UnsupportedOperation(
            f"{name} is in Tart's first format, whose chunks have no digests of their content",
            hint="push it again with a current version of Tart",
        )
    for kind in _CHUNKS:
        if parts := tuple(each for each in layers if each.media_type == kind):
            return Disk("chunks", parts, "raw")
    if manifest.config is not None and manifest.config.media_type == KUBESWIFT_CONFIG:
        return Disk("chunks", (), "raw")  # nothing but zeros
    if choice.title is not None:
        return _blob(_one(name, manifest, choice, [e for e in layers if e.title == choice.title]))
    for is_disk in (_is_disk, _has_name_of_disk):
        if found := [each for each in layers if is_disk(each)]:
            return _blob(_one(name, manifest, choice, found))
    tars = tuple(each for each in layers if tar_coding(each) and not each.title)
    if tars:
        return Disk("tar", tars)
    return _blob(_one(name, manifest, choice, [each for each in layers if _may_be_disk(each)]))


def disk_format(layer: Descriptor) -> str | None:
    """The format that a layer is said to have; None if nothing is said, or it is compressed."""
    match = _DISK.fullmatch(layer.media_type)
    if match is not None:
        found = (match["format"] or match["plain"]).removeprefix("x-")
        return None if match["coding"] else _FORMATS.get(found, found)
    match = _FILE.fullmatch(layer.title)
    if match is None or match.end("format") != len(layer.title):
        return None
    found = match["format"].lower()
    return None if found == "img" else _FORMATS.get(found, found)


def check_disktype(name: Name, choice: Choice, manifest: Document, disk: Disk) -> None:
    """:raises ImageNotFound: a manifest that no index leads to has another type of disk."""
    if choice.disktype is None:
        return
    said = {manifest.annotations.get("disktype", "").lower(), disk.disk_format or ""} - {""}
    if choice.disktype.lower() not in said:
        there = f", but {' and '.join(sorted(said))}" if said else ": it does not say which it has"
        raise ImageNotFound(
            f"{name} has no disk of the type {choice.disktype}{there}",
            hint="leave out disktype, or choose what is there",
        )


def check_arch(name: Name, choice: Choice, architecture: str | None) -> None:
    """:raises ImageNotFound: an image that no index leads to is for another architecture."""
    if choice.arch is None or canonical(choice.arch) == canonical(architecture or ""):
        return
    raise ImageNotFound(
        f"{name} is not for {choice.arch}: it is for {architecture or 'no known architecture'}",
        hint="leave out arch, or choose another tag",
    )


def _blob(layer: Descriptor) -> Disk:
    return Disk("blob", (layer,), disk_format(layer))


def _one(name: Name, manifest: Document, choice: Choice, found: Sequence[Descriptor]) -> Descriptor:
    if len(found) == 1:
        return found[0]
    if not found:
        wanted = "disk" if choice.title is None else f"file {printable(choice.title, 100)}"
        raise ImageNotFound(
            f"{name} has no {wanted}; it has {_shown(manifest.layers, _layer_text)}",
            hint="choose a tag with a disk image, or one of these files with title= in the query",
        )
    raise InvalidImageRef(
        f"{name} has several disks: {_shown(found, _layer_text)}",
        hint="choose one of them with title= in the query of the ref",
    )


def _is_disk(layer: Descriptor) -> bool:
    return _DISK.fullmatch(layer.media_type) is not None


def _has_name_of_disk(layer: Descriptor) -> bool:
    return _FILE.fullmatch(layer.title) is not None and layer.annotations.get(_UNPACK) != "true"


def _may_be_disk(layer: Descriptor) -> bool:
    """Whether nothing says that it is something else."""
    return layer.media_type != EMPTY and layer.annotations.get(_UNPACK) != "true"


def _is_about_another(manifest: Descriptor) -> bool:
    key, value = _ABOUT
    unknown = manifest.platform.get("architecture") == "unknown"
    return unknown or manifest.annotations.get(key) == value


def _disktype(manifest: Descriptor) -> str:
    return manifest.annotations.get("disktype", "").lower()


def _arch(manifest: Descriptor) -> str:
    return canonical(manifest.platform.get("architecture", ""))


def canonical(architecture: str) -> str:
    lower = architecture.lower()
    return _ARCHITECTURES.get(lower, lower)


def _wanted(choice: Choice) -> str:
    disktype = None if choice.disktype is None else f"disktype {choice.disktype}"
    arch = f"architecture {choice.arch or platform.machine()}"
    return " and ".join(filter(None, (disktype, arch)))


def _shown(parts: Sequence[Descriptor], text: Callable[[Descriptor], str]) -> str:
    if not parts:
        return "nothing"
    more = len(parts) - _MAX_SHOWN
    shown: Iterable[str] = (printable(text(each), 100) for each in parts[:_MAX_SHOWN])
    return "; ".join(shown) + (f"; and {more} more" if more > 0 else "")


def _manifest_text(manifest: Descriptor) -> str:
    disktype = manifest.annotations.get("disktype")
    said = (
        None if disktype is None else f"disktype {disktype}",
        f"arch {manifest.platform.get('architecture', 'unknown')}",
        None if disktype is not None else manifest.digest[:19] + "…",
    )
    return " ".join(filter(None, said))


def _layer_text(layer: Descriptor) -> str:
    return " ".join(filter(None, (layer.title, layer.media_type, f"({layer.size} bytes)")))
