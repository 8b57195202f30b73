"""Lists images: translates filters to Glance's, and reads pages as they are needed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from imagebroker.plugin import (
    Image,
    ImageNotFound,
    ImageQuery,
    InvalidImageRef,
    TransferError,
    peer,
)
from imagebroker_glance.client import GlanceApi
from imagebroker_glance.identity import Identity
from imagebroker_glance.record import API_NAMES, BASE, is_uuid
from imagebroker_glance.urls import origin

#: Default number of images per request; servers allow up to 1000 by default.
PAGE = 100
#: Number of a page's last images that are tried as marker, in case some were deleted meanwhile.
_MARKS = 10

#: Fields that Glance filters by.
_FILTERS = frozenset({
    "id", "name", "status", "visibility", "owner", "hidden", "protected", "size", "size_min",
    "size_max", "disk_format", "container_format", "min_disk", "min_ram", "tag", "tags",
    "created_at", "updated_at", "changes-since",
})  # fmt: skip
#: Those for which Glance reads `op:value`, and accepts several values.
_WITH_OPERATOR = frozenset({"id", "name", "status", "disk_format", "container_format"})
#: Query parameters, which must not be used as names of properties.
_PARAMETERS = frozenset({"limit", "marker", "member_status", "sort", "sort_key", "sort_dir", "tag"})

#: Endings by which Glance takes the name of a property for a range, or fails.
_RANGES = ("_min", "_max")

_HINT = "check that the endpoint is the image service"

ImageOf = Callable[[Mapping[str, Any], str], Image]


def list_images(
    api: GlanceApi, identity: Identity, query: ImageQuery, image_of: ImageOf
) -> Iterator[Image]:
    """The images that match; arguments are checked now, pages are read later.

    :raises InvalidImageRef: a filter is unknown or has an impossible value.
    """
    parameters = _parameters(query)
    chosen = {
        name.removeprefix("property-"): _text(value)
        for name, value in query.filters.items()
        if name.startswith("property-") and name.endswith(_RANGES) and value is not None
    }
    if not chosen:
        return _images(api, identity, query, parameters, image_of)
    images = _images(api, identity, replace(query, limit=None), parameters, image_of)
    found = (image for image in images if chosen.items() <= dict(image.properties or {}).items())
    return itertools.islice(found, query.limit)


def _parameters(query: ImageQuery) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in query.filters.items():
        if value is not None:
            found.extend(_filter(name, value))
    if "status" not in query.filters:
        found.append(("status", "active"))
    key = API_NAMES.get(query.sort_key, query.sort_key)
    return [*found, ("sort_key", key), ("sort_dir", query.sort_dir)]


def _filter(name: str, value: Any) -> list[tuple[str, str]]:
    if name.startswith("property-"):
        own = name.removeprefix("property-")
        if not own or own in BASE or own in _PARAMETERS:
            raise InvalidImageRef(
                f"the filter {name!r} does not name a custom property",
                hint="filter by an attribute of all images with its own name, without property-",
            )
        return [] if own.endswith(_RANGES) else [(own, _text(value))]
    if name not in _FILTERS:
        raise InvalidImageRef(
            f"the glance backend does not support the filter {name!r}",
            hint=f"use property-<name>, {', '.join(sorted(_FILTERS))}",
        )
    if name in ("tag", "tags"):
        return [("tag", each) for each in ([value] if isinstance(value, str) else value)]
    if name == "changes-since":
        return [("updated_at", f"gte:{_text(value)}")]
    if name in _WITH_OPERATOR:
        return [(name, _operand(value))]
    return [(API_NAMES.get(name, name), _text(value))]


def _operand(value: Any) -> str:
    """A value, or several, escaped such that Glance does not read an operator in them."""
    if isinstance(value, (list, tuple, set, frozenset)):
        values = [str(each) for each in value]
        if any('"' in each or "\\" in each for each in values):
            raise InvalidImageRef("several values of a filter cannot contain quotes")
        return "in:" + ",".join(f'"{each}"' for each in values)
    text = str(value)
    return f"eq:{text}" if ":" in text else text


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _images(
    api: GlanceApi,
    identity: Identity,
    query: ImageQuery,
    parameters: list[tuple[str, str]],
    image_of: ImageOf,
) -> Iterator[Image]:
    left = query.limit
    seen: set[str] = set()
    marks = [query.marker] if query.marker else []
    reader = peer.Reader(lambda each: image_of(*each), lambda each: _id_of(each[0]))
    while left is None or left > 0:
        size = query.page_size or PAGE
        size = size if left is None else min(size, left)
        page, url = _page(api, identity, [*parameters, ("limit", str(size))], marks)
        fresh = [each for each in page["images"] if _id_of(each) not in seen]
        seen.update(map(_id_of, fresh))
        for image in itertools.islice(reader.read((each, url) for each in fresh), left):
            left = None if left is None else left - 1
            yield image
        if page.get("next") in (None, ""):
            reader.check()
            return
        if not fresh:
            raise TransferError(
                "the list of images repeats itself", hint="check the image service's log"
            )
        marks = _marks(page["next"], page["images"])


def _id_of(raw: Any) -> str:
    """The id of a record, even of an invalid one; empty if it has none."""
    found = raw.get("id") if isinstance(raw, dict) else None
    return found if isinstance(found, str) else ""


def _marks(following: Any, page: list[Any]) -> list[str]:
    """Markers for the next page: the server's own, else the last images of this page.

    Only an id is taken from the server's link: the next request goes to the same URL.
    """
    try:
        named = parse_qs(urlsplit(str(following)).query).get("marker", [])
    except ValueError:
        named = []
    last = list(filter(is_uuid, map(_id_of, reversed(page))))[:_MARKS]
    return list(dict.fromkeys([*filter(is_uuid, named), *last]))


def _page(
    api: GlanceApi, identity: Identity, parameters: list[tuple[str, str]], marks: list[str]
) -> tuple[Mapping[str, Any], str]:
    """One page; if its marker was deleted meanwhile, an earlier one is used."""
    for index, mark in enumerate(marks or [""]):
        try:
            page, url = api.page(identity, [*parameters, *([("marker", mark)] if mark else [])])
        except (ImageNotFound, InvalidImageRef):
            if index + 1 >= len(marks):
                raise
            continue
        images = page.get("images") if isinstance(page, dict) else None
        if not isinstance(images, list):
            peer.malformed(origin(url), "the list of images is not a list", _HINT)
        return page, url
    raise AssertionError("unreachable")
