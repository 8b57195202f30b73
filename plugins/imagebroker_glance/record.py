"""Converts Glance's JSON to our `Image`; parsed strictly, because it is acted upon."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from imagebroker.plugin import Image, InvalidImageRef, Location, peer
from imagebroker_glance.urls import origin

#: Attributes of the v2 schema; every other attribute is a custom property.
BASE = frozenset({
    "id", "name", "status", "visibility", "owner", "os_hidden", "protected", "tags", "size",
    "virtual_size", "disk_format", "container_format", "min_disk", "min_ram", "checksum",
    "os_hash_algo", "os_hash_value", "created_at", "updated_at", "deleted_at", "deleted",
    "direct_url", "location", "locations", "stores", "self", "file", "schema", "members",
    "is_public",
})  # fmt: skip

#: Prefix of properties in which Glance records the state of its own tasks.
INTERNAL = "os_glance"

#: `Image` fields that have another name in Glance's API.
API_NAMES = {"hidden": "os_hidden"}

#: Fields of `Image` that are attributes in Glance.
_FIELDS = (
    "id", "name", "status", "visibility", "owner", "hidden", "protected", "tags", "size",
    "virtual_size", "disk_format", "container_format", "min_disk", "min_ram", "created_at",
    "updated_at", "deleted_at",
)  # fmt: skip

#: Strong algorithms, with the number of hex digits of their digests.
STRONG_DIGITS = {"sha256": 64, "sha512": 128}

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def parse_json(body: bytes, url: str) -> dict[str, Any]:
    """The JSON object in `body`. :raises MalformedAnswer: it is something else."""
    return peer.document(body, dict, origin(url))


def a_list(found: Any, url: str) -> list[Any]:
    """`found`. :raises MalformedAnswer: it is not a list."""
    if not isinstance(found, list):
        peer.malformed(origin(url), f"a list of locations is {type(found).__name__}")
    return found


def to_image(
    raw: Mapping[str, Any], url: str, ref_of: Callable[[str], str], *, locations: bool
) -> Image:
    """The record `raw`, with the type of every value checked.

    Digests are passed on unchanged, even invalid ones: the core decides what to trust.

    :raises MalformedAnswer: a value has the wrong type, or is invalid.
    """
    who = origin(url)
    if not isinstance(raw, Mapping):
        peer.malformed(who, f"a record is {type(raw).__name__}")
    image_id = raw.get("id")
    if not isinstance(image_id, str) or not is_uuid(image_id):
        peer.malformed(who, f"the id {image_id!r:.80} is not a UUID")
    checksums = _checksums(raw, who)
    return peer.image(
        who,
        ref_of(image_id),
        **{name: raw.get(API_NAMES.get(name, name)) for name in _FIELDS},
        checksums=checksums,
        properties={name: value for name, value in raw.items() if is_own(name)},
        locations=_locations(raw, who) if locations else None,
        version=version_of(raw, who),
        stores=_stores(raw, who),
    )


def is_own(name: str) -> bool:
    """Whether an attribute is a custom property, not one of Glance."""
    return name not in BASE and not name.startswith(INTERNAL)


def _stores(raw: Mapping[str, Any], who: str) -> tuple[str, ...] | None:
    """Glance stores them as text, separated by commas; duplicates are removed."""
    named = peer.text(raw.get("stores"), "stores", who)
    return None if named is None else tuple(dict.fromkeys(filter(None, named.split(","))))


def is_uuid(text: str) -> bool:
    """Whether `text` is an id that can be used in a path."""
    return _UUID.fullmatch(text) is not None


def _checksums(raw: Mapping[str, Any], who: str) -> dict[str, str]:
    """The digests of the record, including unusable ones, which must not look like none."""
    found: dict[str, str] = {}
    algorithm = peer.text(raw.get("os_hash_algo"), "os_hash_algo", who)
    digest = peer.text(raw.get("os_hash_value"), "os_hash_value", who)
    if algorithm is not None or digest is not None:
        found[algorithm or "unnamed"] = (digest or "").lower()
    if md5 := peer.text(raw.get("checksum"), "checksum", who):
        found.setdefault("md5", md5.lower())
    return found


def version_of(raw: Mapping[str, Any], who: str) -> str | None:
    """The digest, if it is a strong one: the same digest means the same data."""
    algorithm = peer.text(raw.get("os_hash_algo"), "os_hash_algo", who)
    digest = (peer.text(raw.get("os_hash_value"), "os_hash_value", who) or "").lower()
    digits = STRONG_DIGITS.get(algorithm or "")
    if digits is None or not re.fullmatch(rf"[0-9a-f]{{{digits}}}", digest):
        return None
    return f"{algorithm}:{digest}"


def to_locations(entries: Any, who: str) -> tuple[Location, ...]:
    """The locations in a server's list, without duplicates.

    :raises MalformedAnswer: an entry is not a location.
    """
    found: dict[str, Location] = {}
    for entry in entries if isinstance(entries, list) else [None]:
        place = entry.get("url") if isinstance(entry, dict) else None
        metadata = entry.get("metadata") or {} if isinstance(entry, dict) else None
        if not isinstance(place, str) or not isinstance(metadata, dict):
            peer.malformed(who, "locations contains something other than locations")
        found.setdefault(place, Location(place, metadata))
    return tuple(found.values())


def _locations(raw: Mapping[str, Any], who: str) -> tuple[Location, ...]:
    listed = to_locations(raw.get("locations") or [], who)
    found = {each.url: each for each in listed}
    direct = peer.text(raw.get("direct_url"), "direct_url", who)
    if direct:
        found.setdefault(direct, Location(direct))
    return tuple(found.values())


def check(raw: Mapping[str, Any], url: str) -> None:
    """:raises MalformedAnswer: a value of a record has the wrong type."""
    to_image(raw, url, str, locations=False)


def api_properties(properties: Mapping[str, Any]) -> dict[str, str]:
    """Custom properties as Glance stores them: as text. None is omitted.

    :raises InvalidImageRef: a name is an attribute of Glance.
    """
    stored: dict[str, str] = {}
    for name, value in properties.items():
        if name in BASE:
            raise InvalidImageRef(
                f"image_info: the property {name!r} is an attribute of every image",
                hint="set the field with that name, or rename the property",
            )
        if value is not None:
            stored[name] = value if isinstance(value, str) else json.dumps(value)
    return stored
