"""The record of an image in the metadata of its object.

Object stores have names and values in headers, so the record is JSON, percent-encoded, in as many
values as it takes: servers limit a single one (Swift: 256 bytes) and all of them (AWS: 2 KiB).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

from imagebroker.exceptions import InvalidImageRef
from imagebroker.model.image import ACTIVE, Image

#: The fields that an object keeps, beside the formats and digests.
FIELDS = ("name", "tags", "properties", "min_disk", "min_ram", "protected", "hidden")
#: What the names of our metadata begin with.
PREFIX = "imagebroker-"
_KEPT = (*FIELDS, "disk_format", "container_format")
_PIECE = 200
_DIGESTS = frozenset({"sha256", "sha512", "md5"})


def metadata_of(image: Image, most: int) -> dict[str, str]:
    """The metadata for an object with this record.

    :param most: bytes that every server of this kind takes.
    :raises InvalidImageRef: the record is too large.
    """
    record: dict[str, Any] = {n: v for n in _KEPT if (v := getattr(image, n)) not in (None, (), {})}
    if "tags" in record:
        record["tags"] = list(record["tags"])
    if "properties" in record:
        record["properties"] = dict(record["properties"])
    checksums = {n: d for n, d in image.checksums.items() if n in _DIGESTS}
    if checksums:
        record["checksums"] = checksums
    if image.created_at is not None:
        record["created_at"] = image.created_at.isoformat()
    text = json.dumps(record, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    safe = quote(text, safe="!$&'()*+,/:;=?@[]{}\"")
    if len(safe) > most:
        raise InvalidImageRef(
            f"the record has {len(safe)} bytes as metadata, and an object takes {most}",
            hint="use fewer or shorter properties and tags",
        )
    pieces = [safe[at : at + _PIECE] for at in range(0, len(safe), _PIECE)]
    return {f"{PREFIX}{number}": piece for number, piece in enumerate(pieces)}


def image_of(
    ref: str,
    key: str,
    metadata: Mapping[str, str],
    *,
    size: int | None = None,
    changed: datetime | None = None,
    version: str | None = None,
    checksums: Mapping[str, str] | None = None,
) -> Image:
    """The record of an object; of somebody else's object, what the server knows.

    :param metadata: by name, in lower case, without what the service puts before names.
    :param checksums: what the server says of the bytes, where the record has no digests.
    """
    record = _record(metadata)
    changed = changed.astimezone(UTC) if changed is not None else None
    kept = {
        name: digest
        for name, digest in _mapping(record.get("checksums")).items()
        if name in _DIGESTS and isinstance(digest, str)
    }
    return Image(
        ref,
        name=_text(record.get("name")) or key.rstrip("/").rpartition("/")[2] or key,
        status=ACTIVE,
        hidden=record.get("hidden") is True,
        protected=record.get("protected") is True,
        tags=tuple(each for each in _list(record.get("tags")) if isinstance(each, str)),
        size=size,
        disk_format=_text(record.get("disk_format")),
        container_format=_text(record.get("container_format")),
        min_disk=_number(record.get("min_disk")),
        min_ram=_number(record.get("min_ram")),
        checksums=kept or dict(checksums or {}),
        created_at=_moment(record.get("created_at")) or changed,
        updated_at=changed,
        properties=_mapping(record.get("properties")),
        version=version,
    )


def same_record(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two records differ in nothing but the time of their creation."""
    first, second = ({**_record(each), "created_at": None} for each in (one, other))
    return first == second


def _record(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    pieces: list[str] = []
    while (piece := metadata.get(f"{PREFIX}{len(pieces)}")) is not None:
        pieces.append(piece)
    try:
        return _mapping(json.loads(unquote("".join(pieces), errors="strict")))
    except (ValueError, RecursionError):
        return {}


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
