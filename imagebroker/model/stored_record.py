"""A record as JSON, for backends that keep it beside the bytes: in the metadata of an object, an
annotation of a manifest, a key of an image.

What is read back may have been written by anybody: a value of a wrong type is as good as none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from imagebroker.model.image import Image

#: The fields that are kept, beside the formats and digests: what a backend declares as its
#: `record_fields`.
FIELDS = ("name", "tags", "properties", "min_disk", "min_ram", "protected", "hidden")
_KEPT = (*FIELDS, "disk_format", "container_format")
_TIMES = ("created_at", "updated_at")
_DIGESTS = frozenset({"sha256", "sha512", "md5"})


def values_of(image: Image) -> dict[str, Any]:
    """The fields of a record that are kept, as JSON types; without those that are not set.

    Digests and times are among it. A backend may leave some out, or add keys of its own.
    """
    kept: dict[str, Any] = {n: v for n in _KEPT if (v := getattr(image, n)) not in (None, (), {})}
    if "tags" in kept:
        kept["tags"] = list(kept["tags"])
    if "properties" in kept:
        kept["properties"] = dict(kept["properties"])
    checksums = {n: d for n, d in image.checksums.items() if n in _DIGESTS}
    if checksums:
        kept["checksums"] = checksums
    for name in _TIMES:
        if (moment := getattr(image, name)) is not None:
            kept[name] = moment.isoformat()
    return kept


def text_of(values: Mapping[str, Any]) -> str:
    """The text to store: the same for the same values."""
    return json.dumps(values, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def values_in(text: str | None) -> Mapping[str, Any]:
    """The values in a stored text; none if it is not one of ours."""
    try:
        return _mapping(json.loads(text or ""))
    except (ValueError, RecursionError):
        return {}


def fields_in(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an `Image` that `values` have, each with its default where they do not."""
    return {
        "name": _text(values.get("name")),
        "hidden": values.get("hidden") is True,
        "protected": values.get("protected") is True,
        "tags": tuple(each for each in _list(values.get("tags")) if isinstance(each, str)),
        "disk_format": _text(values.get("disk_format")),
        "container_format": _text(values.get("container_format")),
        "min_disk": number_in(values, "min_disk"),
        "min_ram": number_in(values, "min_ram"),
        "checksums": {
            name: digest
            for name, digest in _mapping(values.get("checksums")).items()
            if name in _DIGESTS and isinstance(digest, str)
        },
        "properties": _mapping(values.get("properties")),
        **{name: _moment(values.get(name)) for name in _TIMES},
    }


def number_in(values: Mapping[str, Any], key: str) -> int | None:
    """A whole number that is not negative."""
    value = values.get(key)
    ok = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if ok else None


def changed(record: Image, changes: Mapping[str, Any], purge_props: bool) -> Image:
    """The record after an `update`: properties are merged unless they are purged."""
    fields = dict(changes)
    if "properties" in fields or purge_props:
        kept = {} if purge_props else dict(record.properties)
        merged = {**kept, **(fields.get("properties") or {})}
        fields["properties"] = {name: v for name, v in merged.items() if v is not None}
    if "name" in fields:
        fields["name"] = fields["name"] or None
    fields.pop("size", None)
    return replace(record, **fields)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else None
