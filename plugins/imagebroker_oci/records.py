"""The record of an image: what its manifest says, and what `create` has written into it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from imagebroker.plugin import ACTIVE, Image, InvalidImageRef, peer
from imagebroker_oci.choice import Disk
from imagebroker_oci.manifests import Document
from imagebroker_oci.names import Name

#: The fields that a manifest keeps, beside the formats and digests.
FIELDS = ("name", "tags", "properties", "min_disk", "min_ram", "protected", "hidden")
_KEPT = (*FIELDS, "disk_format", "container_format")
#: The annotation of a manifest that has the record.
RECORD = "org.imagebroker.record"
_CREATED = "org.opencontainers.image.created"
#: Bytes of a record: a manifest has 4 MiB at most.
_MOST = 256 * 1024


def image_of(ref: str, name: Name, manifest: Document, disk: Disk) -> Image:
    """The record of the disk in a manifest; of somebody else's, what registries know."""
    record = _record(manifest.annotations)
    created = peer.moment(manifest.annotations.get(_CREATED) or record.get("created_at"))
    only = disk.layers[0] if disk.layout == "blob" else None
    return Image(
        ref,
        name=_text(record.get("name")) or name.tag or name.repository.rpartition("/")[2],
        status=ACTIVE,
        hidden=record.get("hidden") is True,
        protected=record.get("protected") is True,
        tags=tuple(each for each in _list(record.get("tags")) if isinstance(each, str)),
        size=_number(record.get("size")) if only is None else only.size,
        disk_format=_text(record.get("disk_format")) or disk.disk_format,
        container_format=_text(record.get("container_format")),
        min_disk=_number(record.get("min_disk")),
        min_ram=_number(record.get("min_ram")),
        checksums=MappingProxyType(
            _digests(record) if only is None else {only.algorithm: only.hex}
        ),
        created_at=created,
        updated_at=created,
        properties=MappingProxyType(_mapping(record.get("properties"))),
        # Of a blob alone the digest is that of the bytes; other layouts are what a manifest says.
        version=manifest.digest if only is None else only.digest,
    )


def annotations_of(image: Image, *, content: bool = False) -> dict[str, str]:
    """The annotations for a manifest with this record.

    :param content: also size and SHA-256 of the disk, where the digest of no blob is its own.
    :raises InvalidImageRef: the record is too large.
    """
    record: dict[str, Any] = {n: v for n in _KEPT if (v := getattr(image, n)) not in (None, (), {})}
    if "tags" in record:
        record["tags"] = list(record["tags"])
    if "properties" in record:
        record["properties"] = dict(record["properties"])
    if content and image.size is not None:
        record["size"] = image.size
    if content and image.checksums.get("sha256"):
        record["sha256"] = image.checksums["sha256"]
    text = json.dumps(record, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    if len(text.encode("utf-8", "surrogatepass")) > _MOST:
        raise InvalidImageRef(
            f"the record has more than {_MOST} bytes", hint="use fewer or shorter properties"
        )
    found = {RECORD: text}
    if image.created_at is not None:
        found[_CREATED] = image.created_at.isoformat().replace("+00:00", "Z")
    return found


def is_protected(manifest: Document) -> bool:
    return _record(manifest.annotations).get("protected") is True


def changed_manifest(
    manifest: Document, disk: Disk, record: Image, changes: Mapping[str, Any], purge_props: bool
) -> dict[str, Any]:
    """The manifest of an image after an update of its record; everything else stays as it is."""
    fields = dict(changes)
    if "properties" in fields or purge_props:
        kept = {} if purge_props else dict(record.properties)
        merged = {**kept, **(fields.get("properties") or {})}
        fields["properties"] = {name: v for name, v in merged.items() if v is not None}
    fields.pop("size", None)
    document: dict[str, Any] = json.loads(manifest.body)
    document["mediaType"] = manifest.media_type
    document["annotations"] = {
        **manifest.annotations,
        **annotations_of(replace(record, **fields), content=disk.layout != "blob"),
    }  # fmt: skip
    return document


def _record(annotations: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        return _mapping(json.loads(annotations.get(RECORD, "{}")))
    except (ValueError, RecursionError):
        return {}


def _digests(record: Mapping[str, Any]) -> dict[str, str]:
    """What `create` has computed over a disk that is no blob of its own."""
    found = record.get("sha256")
    valid = isinstance(found, str) and re.fullmatch("[0-9a-f]{64}", found)
    return {"sha256": str(found)} if valid else {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> int | None:
    ok = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if ok else None
