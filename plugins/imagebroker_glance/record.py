"""Glance's JSON and our `Image`: parsed strictly, because whatever it says is acted upon."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn

from imagebroker.plugin import Image, InvalidImageRef, Location, TransferError, redact
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

#: Hex digits of the digests that prove content.
STRONG_DIGITS = {"sha256": 64, "sha512": 128}

#: Lists and objects in one answer: each costs 20 times the bytes that it takes on the wire.
_MAX_CONTAINERS = 100_000
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def parse_json(body: bytes, url: str) -> dict[str, Any]:
    """The JSON object in `body`.

    :raises TransferError: it is anything else, or uses what sane servers do not: duplicate keys,
        NaN, deep nesting.
    """
    found: dict[str, Any] = _parsed(body, url, dict)
    return found


def parse_list(body: bytes, url: str) -> list[Any]:
    """The JSON list in `body`, as strictly."""
    found: list[Any] = _parsed(body, url, list)
    return found


def _parsed(body: bytes, url: str, kind: type) -> Any:
    try:
        if body.count(b"[") + body.count(b"{") > _MAX_CONTAINERS:
            raise ValueError("too many lists and objects")
        parsed = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_no_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        if not isinstance(parsed, kind):
            raise ValueError(f"it is a {type(parsed).__name__}, not a {kind.__name__}")
        json.dumps(parsed, ensure_ascii=False).encode()  # fails for lone surrogates
    except (ValueError, RecursionError) as error:
        raise _malformed(url, str(error)) from None
    return parsed


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _malformed(url: str, what: str) -> TransferError:
    return TransferError(
        f"{origin(url)}: the answer is not what an image service says: {redact(what, 200)}",
        hint="check that the endpoint is the image service",
    )


def to_image(
    raw: Mapping[str, Any], url: str, ref_of: Callable[[str], str], *, locations: bool
) -> Image:
    """The record `raw`, every value checked for its type.

    Digests are passed on as they are, odd ones too: what may be trusted is decided by the core.

    :raises TransferError: a value has the wrong type.
    """
    take = _Taker(raw, url)
    image_id = take.text("id")
    if image_id is None or not is_uuid(image_id):
        raise _malformed(url, f"the id {image_id!r} is no UUID")
    return Image(
        ref=ref_of(image_id),
        id=image_id,
        name=take.text("name"),
        status=take.text("status"),
        visibility=take.text("visibility"),
        owner=take.text("owner"),
        hidden=take.flag("os_hidden"),
        protected=take.flag("protected"),
        tags=take.texts("tags"),
        size=take.number("size"),
        virtual_size=take.number("virtual_size"),
        disk_format=take.text("disk_format"),
        container_format=take.text("container_format"),
        min_disk=take.number("min_disk"),
        min_ram=take.number("min_ram"),
        checksums=_checksums(take),
        created_at=take.time("created_at"),
        updated_at=take.time("updated_at"),
        deleted_at=take.time("deleted_at"),
        properties={name: value for name, value in raw.items() if is_own(name)},
        locations=_locations(take) if locations else None,
        version=version_of(take),
        stores=_stores(take),
    )


def is_own(name: str) -> bool:
    """Whether an attribute is a property of the image's owner, and not Glance's own."""
    return name not in BASE and not name.startswith(INTERNAL)


def _stores(take: _Taker) -> tuple[str, ...] | None:
    """Glance writes them into one text; several are there once each."""
    named = take.text("stores")
    return None if named is None else tuple(dict.fromkeys(filter(None, named.split(","))))


def is_uuid(text: str) -> bool:
    """Whether `text` may stand in a path as the id of an image."""
    return _UUID.fullmatch(text) is not None


class _Taker:
    """Takes values of one type out of a record."""

    def __init__(self, raw: Mapping[str, Any], url: str) -> None:
        self._raw = raw
        self.url = url

    def _take(self, name: str, kind: type) -> Any:
        value = self._raw.get(name)
        if value is None:
            return None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise _malformed(self.url, f"{name} is {type(value).__name__}")
        return value

    def text(self, name: str) -> str | None:
        value: str | None = self._take(name, str)
        return value

    def flag(self, name: str) -> bool | None:
        value: bool | None = self._take(name, bool)
        return value

    def number(self, name: str) -> int | None:
        value: int | None = self._take(name, int)
        if value is not None and value < 0:
            raise _malformed(self.url, f"{name} is negative")
        return value

    def items(self, name: str) -> list[Any] | None:
        value: list[Any] | None = self._take(name, list)
        return value

    def texts(self, name: str) -> tuple[str, ...] | None:
        values = self.items(name)
        if values is not None and not all(isinstance(each, str) for each in values):
            raise _malformed(self.url, f"{name} holds something other than text")
        return None if values is None else tuple(values)

    def time(self, name: str) -> datetime | None:
        """None for what is no time: clocks and their spelling are nothing to fail for."""
        try:
            found = datetime.fromisoformat(self.text(name) or "")
        except ValueError:
            return None
        return found if found.tzinfo else found.replace(tzinfo=UTC)


def _checksums(take: _Taker) -> dict[str, str]:
    """What the record claims, the unusable included, so that nobody takes it for nothing."""
    found: dict[str, str] = {}
    algorithm, digest = take.text("os_hash_algo"), take.text("os_hash_value")
    if algorithm is not None or digest is not None:
        found[algorithm or "unnamed"] = (digest or "").lower()
    if md5 := take.text("checksum"):
        found.setdefault("md5", md5.lower())
    return found


def version_of(take: _Taker) -> str | None:
    """The digest, where it proves that two records mean the same bytes."""
    algorithm, digest = take.text("os_hash_algo"), (take.text("os_hash_value") or "").lower()
    digits = STRONG_DIGITS.get(algorithm or "")
    if digits is None or not re.fullmatch(rf"[0-9a-f]{{{digits}}}", digest):
        return None
    return f"{algorithm}:{digest}"


def to_locations(entries: list[Any], url: str) -> tuple[Location, ...]:
    """Locations as a server lists them, each once.

    :raises TransferError: an entry is no location.
    """
    found: dict[str, Location] = {}
    for entry in entries:
        place = entry.get("url") if isinstance(entry, dict) else None
        metadata = entry.get("metadata") or {} if isinstance(entry, dict) else None
        if not isinstance(place, str) or not isinstance(metadata, dict):
            raise _malformed(url, "locations holds something other than locations")
        found.setdefault(place, Location(place, metadata))
    return tuple(found.values())


def _locations(take: _Taker) -> tuple[Location, ...]:
    listed = to_locations(take.items("locations") or [], take.url)
    found = {each.url: each for each in listed}
    direct = take.text("direct_url")
    if direct:
        found.setdefault(direct, Location(direct))
    return tuple(found.values())


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
