"""Manifests and indexes, read strictly: what leads to the parts of an image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from imagebroker.plugin import MalformedAnswer, UnsupportedOperation, peer

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
#: What registries are asked for. One type may hide what is stored with another.
MANIFEST_TYPES = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX)
EMPTY = "application/vnd.oci.empty.v1+json"
TITLE = "org.opencontainers.image.title"
#: The name of a disk in an export of KubeVirt, which has several without titles.
_DISK_NAME = "io.kubevirt.disk.name"

#: Parts of one document.
_MAX_LAYERS, _MAX_MANIFESTS = 10_000, 1_000
#: Characters of a media type (RFC 6838), and of a file name that means anything.
_LONGEST_TYPE, _LONGEST_TITLE = 255, 1024
_DIGITS = {"sha256": 64, "sha512": 128}
_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1"


@dataclass(frozen=True)
class Descriptor:
    """What a document says about one of its parts."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""
    #: `os` and `architecture`, of a manifest in an index.
    platform: Mapping[str, str] = field(default_factory=dict)

    @property
    def algorithm(self) -> str:
        return self.digest.partition(":")[0]

    @property
    def hex(self) -> str:
        return self.digest.partition(":")[2]

    @property
    def title(self) -> str:
        """The name of the file, or the disk, that it was."""
        title = self.annotations.get(TITLE) or self.annotations.get(_DISK_NAME, "")
        return title if len(title) <= _LONGEST_TITLE else ""

    @classmethod
    def parse(cls, who: str, value: Any) -> Descriptor:
        """:raises MalformedAnswer: it is none."""
        if not isinstance(value, dict):
            peer.malformed(who, "a descriptor is not an object")
        size = peer.number(value.get("size"), "size", who)
        if size is None:
            peer.malformed(who, "a descriptor without a size")
        platform = value.get("platform")
        media_type = (peer.text(value.get("mediaType"), "mediaType", who) or "").lower()
        if len(media_type) > _LONGEST_TYPE:
            peer.malformed(who, f"a media type of {len(media_type)} characters")
        return cls(
            media_type,
            _digest(who, value.get("digest")),
            size,
            _texts(who, value.get("annotations"), "annotations"),
            peer.text(value.get("artifactType"), "artifactType", who) or "",
            {
                key: each.lower()
                for key, each in (platform if isinstance(platform, dict) else {}).items()
                if isinstance(each, str)
            },
        )


@dataclass(frozen=True)
class Document:
    """A manifest, or an index of manifests."""

    digest: str
    #: As it is stored.
    body: bytes = field(repr=False)
    media_type: str
    artifact_type: str
    annotations: Mapping[str, str]
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    #: What an index leads to.
    manifests: tuple[Descriptor, ...]

    @property
    def is_index(self) -> bool:
        return self.media_type in (OCI_INDEX, DOCKER_INDEX)

    @classmethod
    def parse(cls, who: str, digest: str, media_type: str, body: bytes) -> Document:
        """:raises MalformedAnswer, UnsupportedOperation: it is neither manifest nor index."""
        found = peer.document(body, dict, who)
        kind = _kind(who, found, media_type)
        config = found.get("config")
        return cls(
            digest, body, kind,
            peer.text(found.get("artifactType"), "artifactType", who) or "",
            _texts(who, found.get("annotations"), "annotations"),
            None if config is None else Descriptor.parse(who, config),
            _descriptors(who, found.get("layers"), "layers", _MAX_LAYERS),
            _descriptors(who, found.get("manifests"), "manifests", _MAX_MANIFESTS),
        )  # fmt: skip


def _kind(who: str, found: Mapping[str, Any], media_type: str) -> str:
    """What a document is, whoever reads it: one that could be read as both is refused."""
    if found.get("schemaVersion") == 1 or media_type.startswith(_SCHEMA1):
        raise UnsupportedOperation(
            f"{who} is in docker's first format, which has no digests",
            hint="push the image again with a current program",
        )
    said = (peer.text(found.get("mediaType"), "mediaType", who) or "").lower()
    if said and media_type in MANIFEST_TYPES and said != media_type:
        peer.malformed(who, f"it is {said}, and was sent as {media_type}")
    kind = said or media_type
    if kind not in MANIFEST_TYPES:
        raise MalformedAnswer(
            f"{who} has the type {kind or 'unknown'!r:.100}",
            hint="check that the ref leads to an image of an OCI registry",
        )
    is_index = kind in (OCI_INDEX, DOCKER_INDEX)
    if ("manifests" in found) != is_index or ("layers" in found) == is_index:
        peer.malformed(who, f"it does not have the parts of {kind}")
    return kind


def _descriptors(who: str, value: Any, name: str, most: int) -> tuple[Descriptor, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        peer.malformed(who, f"{name} is not a list")
    if len(value) > most:
        peer.malformed(who, f"it has {len(value)} {name}, more than {most}")
    return tuple(Descriptor.parse(who, each) for each in value)


def _digest(who: str, value: Any) -> str:
    algorithm, _, digits = value.partition(":") if isinstance(value, str) else ("", "", "")
    pattern = f"[0-9a-f]{{{_DIGITS.get(algorithm, 1)}}}"
    if algorithm not in _DIGITS or not re.fullmatch(pattern, digits):
        peer.malformed(who, f"a digest is {value!r:.100}")
    return f"{algorithm}:{digits}"


def _texts(who: str, value: Any, name: str) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        peer.malformed(who, f"{name} is not an object of text")
    return value
