"""The record of a snapshot, in the metadata of its image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from imagebroker.plugin import ACTIVE, Image

#: The fields that are kept, beside the formats and digests.
FIELDS = ("name", "tags", "properties", "min_disk", "min_ram", "protected", "hidden")
_KEPT = (*FIELDS, "disk_format", "container_format")
_DIGESTS = frozenset({"sha256", "sha512", "md5"})


@dataclass(frozen=True)
class Record:
    """What the metadata says of one snapshot."""

    fields: Mapping[str, Any]

    @property
    def is_whole_image(self) -> bool:
        """Whether `create` made the image for this snapshot."""
        return self.fields.get("whole_image") is True


def key_of(snapshot_id: int | None) -> str:
    """The key of the metadata of a snapshot."""
    return f"imagebroker.{'head' if snapshot_id is None else snapshot_id}"


def text_of(image: Image, *, whole_image: bool) -> str:
    """The metadata of a snapshot with this record."""
    record: dict[str, Any] = {n: v for n in _KEPT if (v := getattr(image, n)) not in (None, (), {})}
    if "tags" in record:
        record["tags"] = list(record["tags"])
    if "properties" in record:
        record["properties"] = dict(record["properties"])
    checksums = {n: d for n, d in image.checksums.items() if n in _DIGESTS}
    if checksums:
        record["checksums"] = checksums
    for name in ("created_at", "updated_at"):
        moment = getattr(image, name)
        if moment is not None:
            record[name] = moment.isoformat()
    if whole_image:
        record["whole_image"] = True
    return json.dumps(record, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def record_of(text: str | None) -> Record:
    """What a metadata text says; nothing if it is none of ours."""
    try:
        found = json.loads(text or "")
    except (ValueError, RecursionError):
        found = None
    return Record(_mapping(found))


def image_of(
    ref: str, name: str, record: Record, *, size: int, version: str | None, created: datetime | None
) -> Image:
    """The record of a snapshot; of somebody else's, what Ceph knows."""
    fields = record.fields
    made = _moment(fields.get("created_at")) or created
    return Image(
        ref,
        name=_text(fields.get("name")) or name,
        status=ACTIVE,
        hidden=fields.get("hidden") is True,
        protected=fields.get("protected") is True,
        tags=tuple(each for each in _list(fields.get("tags")) if isinstance(each, str)),
        size=size,
        disk_format=_text(fields.get("disk_format")),
        container_format=_text(fields.get("container_format")),
        min_disk=_number(fields.get("min_disk")),
        min_ram=_number(fields.get("min_ram")),
        checksums={
            name: digest
            for name, digest in _mapping(fields.get("checksums")).items()
            if name in _DIGESTS and isinstance(digest, str)
        },
        created_at=made,
        updated_at=_moment(fields.get("updated_at")) or made,
        properties=_mapping(fields.get("properties")),
        version=version,
    )


def changed(image: Image, changes: Mapping[str, Any], purge_props: bool) -> Image:
    """The record after an update."""
    fields = dict(changes)
    if "properties" in fields or purge_props:
        kept = {} if purge_props else dict(image.properties)
        merged = {**kept, **(fields.get("properties") or {})}
        fields["properties"] = {name: v for name, v in merged.items() if v is not None}
    if "name" in fields:
        fields["name"] = fields["name"] or None
    fields.pop("size", None)
    return replace(image, updated_at=datetime.now(UTC), **fields)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> int | None:
    ok = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if ok else None


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else None
