"""The record of an image: what its manifest says, and what `create` has written into it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from imagebroker.plugin import ACTIVE, Image, InvalidImageRef, peer, records
from imagebroker_oci.choice import Disk
from imagebroker_oci.manifests import Document
from imagebroker_oci.names import Name

#: The annotation of a manifest that has the record.
RECORD = "org.imagebroker.record"
_CREATED = "org.opencontainers.image.created"
#: Bytes of a record: a manifest has 4 MiB at most.
_MAX_RECORD = 256 * 1024


def image_of(ref: str, name: Name, manifest: Document, disk: Disk) -> Image:
    """The record of the disk in a manifest; of somebody else's, what registries know."""
    values = _values(manifest.annotations)
    fields = records.fields_in(values)
    created = peer.moment(manifest.annotations.get(_CREATED) or values.get("created_at"))
    only = disk.layers[0] if disk.layout == "blob" else None
    fields |= {
        "name": fields["name"] or name.tag or name.repository.rpartition("/")[2],
        "disk_format": fields["disk_format"] or disk.disk_format,
        "checksums": _digests(values) if only is None else {only.algorithm: only.hex},
        "created_at": created, "updated_at": created,
    }  # fmt: skip
    size = records.number_in(values, "size") if only is None else only.size
    # Of a blob alone the digest is that of the bytes; other layouts are what a manifest says.
    version = manifest.digest if only is None else only.digest
    return Image(ref, status=ACTIVE, size=size, version=version, **fields)


def annotations_of(image: Image, *, content: bool = False) -> dict[str, str]:
    """The annotations for a manifest with this record.

    :param content: also size and SHA-256 of the disk, where the digest of no blob is its own.
    :raises InvalidImageRef: the record is too large.
    """
    # The digests are the blobs', and the annotation has the time.
    values = records.values_of(replace(image, checksums={}, created_at=None, updated_at=None))
    if content and image.size is not None:
        values["size"] = image.size
    if content and image.checksums.get("sha256"):
        values["sha256"] = image.checksums["sha256"]
    text = records.text_of(values)
    if len(text.encode("utf-8", "surrogatepass")) > _MAX_RECORD:
        raise InvalidImageRef(
            f"the record has more than {_MAX_RECORD} bytes", hint="use fewer or shorter properties"
        )
    found = {RECORD: text}
    if image.created_at is not None:
        found[_CREATED] = image.created_at.isoformat().replace("+00:00", "Z")
    return found


def is_protected(manifest: Document) -> bool:
    return _values(manifest.annotations).get("protected") is True


def changed_manifest(
    manifest: Document, disk: Disk, record: Image, changes: Mapping[str, Any], purge_props: bool
) -> dict[str, Any]:
    """The manifest of an image after an update of its record; everything else stays as it is."""
    new = records.changed(record, changes, purge_props)
    document: dict[str, Any] = json.loads(manifest.body)
    document["mediaType"] = manifest.media_type
    document["annotations"] = {
        **manifest.annotations,
        **annotations_of(new, content=disk.layout != "blob"),
    }  # fmt: skip
    return document


def _values(annotations: Mapping[str, str]) -> Mapping[str, Any]:
    return records.values_in(annotations.get(RECORD))


def _digests(values: Mapping[str, Any]) -> dict[str, str]:
    """What `create` has computed over a disk that is not a blob of its own."""
    found = values.get("sha256")
    valid = isinstance(found, str) and re.fullmatch("[0-9a-f]{64}", found)
    return {"sha256": str(found)} if valid else {}
