"""The forms in which `create` stores a disk: as it is, or as a file in the layer of a container."""

from __future__ import annotations

import json
import platform
import tarfile
from collections.abc import Iterator
from typing import Any

from imagebroker.plugin import Image, ImageData, InvalidImageRef
from imagebroker_oci.choice import canonical
from imagebroker_oci.manifests import EMPTY, TITLE

_ARTIFACT = "application/vnd.imagebroker.image.v1"
_IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
_TAR = "application/vnd.oci.image.layer.v1.tar"
#: Formats whose media type other programs know (KubeVirt); the others are told by their names.
_KNOWN = "application/vnd.kubevirt.disk."
_MEDIA_TYPES = {"raw": f"{_KNOWN}raw", "qcow2": f"{_KNOWN}qcow2"}
_ENDINGS = {"raw": "raw", "qcow2": "qcow2", "vpc": "vhd", None: "img"}
#: KubeVirt's qemu.
_OWNER = 107


class Artifact:
    """A blob that is the disk."""

    #: Whether the digest of the blob is that of the disk.
    is_bare = True

    def __init__(self, title: str, image: Image) -> None:
        self._image = image
        ending = _ENDINGS.get(image.disk_format, image.disk_format)
        self.file_name = f"{title}.{ending}"

    def check(self, data: ImageData) -> None:
        """:raises InvalidImageRef: it cannot be stored in this form."""

    def packed(self, data: ImageData) -> Iterator[bytes]:
        yield from data

    def config(self, layer: str) -> tuple[str, bytes]:
        """Media type and content."""
        return EMPTY, b"{}"

    def described(self, digest: str, size: int) -> dict[str, Any]:
        """What the manifest says of the blob."""
        kind = _MEDIA_TYPES.get(self._image.disk_format or "", "application/octet-stream")
        return {
            "mediaType": kind, "digest": digest, "size": size,
            "annotations": {TITLE: self.file_name},
        }  # fmt: skip

    @property
    def fields(self) -> dict[str, Any]:
        """Further ones of the manifest."""
        return {"artifactType": _ARTIFACT}


class ContainerDisk(Artifact):
    """KubeVirt's: a tar archive with the disk in `/disk`."""

    is_bare = False

    def check(self, data: ImageData) -> None:
        if data.size is None:  # it stands before the disk
            raise InvalidImageRef(
                "a containerdisk cannot be made of data whose size is not known",
                hint="give the size: --size BYTES, or create from a file",
            )

    def packed(self, data: ImageData) -> Iterator[bytes]:
        size = data.size or 0
        yield _header("disk/", tarfile.DIRTYPE, 0o555, 0)
        yield _header(f"disk/{self.file_name}", tarfile.REGTYPE, 0o440, size)
        yield from data
        yield bytes(-size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)

    def config(self, layer: str) -> tuple[str, bytes]:
        said = self._image.properties.get("architecture")
        config = {
            "architecture": canonical(said if isinstance(said, str) else platform.machine()),
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        }
        return _IMAGE_CONFIG, json.dumps(config).encode()

    def described(self, digest: str, size: int) -> dict[str, Any]:
        return {"mediaType": _TAR, "digest": digest, "size": size}

    @property
    def fields(self) -> dict[str, Any]:
        return {}


def _header(path: str, kind: bytes, mode: int, size: int) -> bytes:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.size = kind, mode, size
    info.uid = info.gid = _OWNER
    return info.tobuf(tarfile.GNU_FORMAT)


FORMS = {"artifact": Artifact, "containerdisk": ContainerDisk}
