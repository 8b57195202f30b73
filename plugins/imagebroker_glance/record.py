"""Glance's JSON and our `Image`: parsed strictly, because whatever it says is acted upon."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from imagebroker.plugin import Image, InvalidImageRef, Location, peer
from imagebroker_glance.wire import origin

#: Attributes of the v2 schema; every other attribute is a property of the image's owner.
BASE = frozenset({
    "id", "name", "status", "visibility", "owner", "os_hidden", "protected", "tags", "size",
    "virtual_size", "disk_format", "container_format", "min_disk", "min_ram", "checksum",
    "os_hash_algo", "os_hash_value", "created_at", "updated_at", "deleted_at", "deleted",
    "direct_url", "location", "locations", "stores", "self", "file", "schema", "members",
    "is_public",
})  # fmt: skip

#: Beginning of the names of properties in which Glance notes how its own tasks fare.
INTERNAL = "os_glance"

#: `Image` fields whose name in Glance's API is another.
API_NAMES = {"hidden": "os_hidden"}

#: Fields of `Image` that are attributes in Glance.
_FIELDS = (
    "id", "name", "status", "visibility", "owner", "hidden", "protected", "tags", "size",
    "virtual_size", "disk_format", "container_format", "min_disk", "min_ram", "created_at",
    "updated_at", "deleted_at",
)  # fmt: skip

#: Hex digits of the digests that prove content.
STRONG_DIGITS = {"sha256": 64, "sha512": 128}

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def parse_json(body: bytes, url: str) -> dict[str, Any]:
    """The JSON object in `body`. :raises MalformedAnswer: it is anything else."""
    return peer.document(body, dict, origin(url))


def parse_list(body: bytes, url: str) -> list[Any]:
    """The JSON list in `body`, as strictly."""
    return peer.document(body, list, origin(url))


def to_image(
    raw: Mapping[str, Any], url: str, ref_of: Callable[[str], str], *, locations: bool
) -> Image:
    """The record `raw`, every value checked for its type.

    Digests are passed on as they are, odd ones too: what may be trusted is decided by the core.

    :raises MalformedAnswer: a value has the wrong type, or makes no sense.
    """
    who = origin(url)
    if not isinstance(raw, Mapping):
        peer.malformed(who, f"a record is {type(raw).__name__}")
    image_id = raw.get("id")
    if not isinstance(image_id, str) or not is_uuid(image_id):
        peer.malformed(who, f"the id {image_id!r:.80} is no UUID")
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
    """Whether an attribute is a property of the image's owner, and not Glance's own."""
    return name not in BASE and not name.startswith(INTERNAL)


def _stores(raw: Mapping[str, Any], who: str) -> tuple[str, ...] | None:
    """Glance writes them into one text; several are there once each."""
    named = peer.text(raw.get("stores"), "stores", who)
    return None if named is None else tuple(dict.fromkeys(filter(None, named.split(","))))


def is_uuid(text: str) -> bool:
    """Whether `text` may stand in a path as the id of an image."""
    return _UUID.fullmatch(text) is not None


def _checksums(raw: Mapping[str, Any], who: str) -> dict[str, str]:
    """What the record claims, the unusable included, so that nobody takes it for nothing."""
    found: dict[str, str] = {}
    algorithm = peer.text(raw.get("os_hash_algo"), "os_hash_algo", who)
    digest = peer.text(raw.get("os_hash_value"), "os_hash_value", who)
    if algorithm is not None or digest is not None:
        found[algorithm or "unnamed"] = (digest or "").lower()
    if md5 := peer.text(raw.get("checksum"), "checksum", who):
        found.setdefault("md5", md5.lower())
    return found


def version_of(raw: Mapping[str, Any], who: str) -> str | None:
    """The digest, where it proves that two records mean the same bytes."""
    algorithm = peer.text(raw.get("os_hash_algo"), "os_hash_algo", who)
    digest = (peer.text(raw.get("os_hash_value"), "os_hash_value", who) or "").lower()
    digits = STRONG_DIGITS.get(algorithm or "")
    if digits is None or not re.fullmatch(rf"[0-9a-f]{{{digits}}}", digest):
        return None
    return f"{algorithm}:{digest}"


def to_locations(entries: Any, who: str) -> tuple[Location, ...]:
    """Locations as a server lists them, each once.

    :raises MalformedAnswer: an entry is no location.
    """
    found: dict[str, Location] = {}
    for entry in entries if isinstance(entries, list) else [None]:
        place = entry.get("url") if isinstance(entry, dict) else None
        metadata = entry.get("metadata") or {} if isinstance(entry, dict) else None
        if not isinstance(place, str) or not isinstance(metadata, dict):
            peer.malformed(who, "locations holds something other than locations")
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
    """Own properties as Glance stores them: text. None is left out.

    :raises InvalidImageRef: a name is one of Glance's own attributes.
    """
    stored: dict[str, str] = {}
    for name, value in properties.items():
        if name in BASE:
            raise InvalidImageRef(
                f"image_info: the property {name!r} is an attribute of every image",
                hint="set the field of that name, or call the property something else",
            )
        if value is not None:
            stored[name] = value if isinstance(value, str) else json.dumps(value)
    return stored
