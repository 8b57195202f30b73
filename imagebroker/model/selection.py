"""Filters, sorts and pages images for a backend whose storage cannot. No I/O.

The rules are those of the file backend, and a value is checked before the first image is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from imagebroker.exceptions import InvalidImageRef
from imagebroker.model.image import ACTIVE, DELETED, STATUSES, VISIBILITIES, Image, ImageQuery

Condition = Callable[[Image], bool]

_FLAGS = ("hidden", "protected")
_NUMBERS = ("size", "virtual_size", "min_disk", "min_ram")
_TIMES = ("created_at", "updated_at", "deleted_at")
_TEXTS = (
    "ref", "id", "name", "status", "visibility", "owner", "disk_format", "container_format",
    "version",
)  # fmt: skip
_SCALARS = (*_TEXTS, *_NUMBERS, *_FLAGS, *_TIMES)
_LISTS = {"tag": "tags", "tags": "tags", "members": "members", "stores": "stores"}
_MAPPINGS = ("properties", "checksums")
#: What is meant where a field is unknown.
_DEFAULTS: Mapping[str, Any] = {"status": ACTIVE, "hidden": False, "protected": False}


def selected(images: Iterable[Image], query: ImageQuery) -> Iterator[Image]:
    """The images that a query asks for, in its order; all of them are read before the first.

    :raises InvalidImageRef: an argument is invalid; at the call.
    :raises InvalidImageRef: the marker is not among them; at the first step.
    """
    conditions = list(_conditions(query.filters))
    if query.sort_key not in _SCALARS:
        raise InvalidImageRef(
            f"unknown sort_key {query.sort_key!r}", hint=f"use one of {', '.join(_SCALARS)}"
        )
    if query.sort_dir not in ("asc", "desc"):
        raise InvalidImageRef(f"unknown sort_dir {query.sort_dir!r}", hint="use asc or desc")
    if query.limit is not None and query.limit < 0:
        raise InvalidImageRef(f"limit {query.limit!r} is negative", hint="use a number from 0 up")
    return _selected(images, query, conditions)


def _selected(
    images: Iterable[Image], query: ImageQuery, conditions: list[Condition]
) -> Iterator[Image]:
    if query.limit == 0:
        return
    ordered = _after(query.marker, _ordered(images, query))
    chosen = (image for image in ordered if all(holds(image) for holds in conditions))
    yield from islice(chosen, query.limit)


def _ordered(images: Iterable[Image], query: ImageQuery) -> list[Image]:
    """Sorted by the key, then by id or name; what is unknown comes first, as in a database."""

    def place(image: Image) -> tuple[Any, ...]:
        value = _value(image, query.sort_key)
        last = (image.id or image.name or "", image.ref)
        return value is not None, value if value is not None else 0, *last

    return sorted(images, key=place, reverse=query.sort_dir == "desc")


def _after(marker: str | None, images: list[Image]) -> list[Image]:
    """The images after the marker: an id, a ref, or the name of an image without an id."""
    if marker is None:
        return images
    for index, image in enumerate(images):
        if marker in (image.id, image.ref) or (image.id is None and marker == image.name):
            return images[index + 1 :]
    raise InvalidImageRef(
        f"the marker {marker!r} is not an image in this list",
        hint="pass the id, or the ref, of the last image seen",
    )


def _conditions(filters: Mapping[str, Any]) -> Iterator[Condition]:
    for name, value in {"status": ACTIVE, "hidden": False, **filters}.items():
        try:
            yield _condition(name, value)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidImageRef(
                f"filter {name}: invalid value {value!r}",
                hint="write a size as a number of bytes, a time like 2026-11-30T12:00:00Z, and "
                "yes or no as true or false",
            ) from error


def _condition(name: str, value: Any) -> Condition:
    if name in _SCALARS:
        wanted = [_checked(name, each) for each in _several(value)]
        return lambda image: _value(image, name) in wanted
    if name in _LISTS:
        every = [_text(each) for each in _several(value)]
        return lambda image: set(every) <= set(getattr(image, _LISTS[name]) or ())
    if name in _MAPPINGS:
        pairs = [(str(key), _as_text(each)) for key, each in dict(value).items()]
        return lambda image: all(_has(getattr(image, name), *pair) for pair in pairs)
    if name.removeprefix("property-") not in ("", name):
        pair = name.removeprefix("property-"), _as_text(value)
        return lambda image: _has(image.properties, *pair)
    if name in ("size_min", "size_max"):
        return _bound(name == "size_min", _number(value))
    if name == "changes-since":
        moment = _moment(value)
        return lambda image: (image.updated_at or image.created_at or _NEVER) >= moment
    names = (*_SCALARS, *_LISTS, *_MAPPINGS, "size_min", "size_max", "changes-since")
    raise InvalidImageRef(
        f"unknown filter {name!r}", hint=f"use one of {', '.join(names)}, property-<name>"
    )


_NEVER = datetime.min.replace(tzinfo=UTC)


def _bound(least: bool, size: int) -> Condition:
    if least:
        return lambda image: image.size is not None and image.size >= size
    return lambda image: image.size is not None and image.size <= size


def _value(image: Image, name: str) -> Any:
    if name == "status" and image.deleted and image.status in (None, ACTIVE):
        return DELETED
    value = getattr(image, name)
    return _DEFAULTS.get(name) if value is None else value


def _has(found: Mapping[str, Any], name: str, text: str) -> bool:
    return name in found and _as_text(found[name]) == text


def _as_text(value: Any) -> str:
    """The text that a filter on a property compares: JSON (5, true) for values of other types."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _several(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (list, tuple, set, frozenset)) else (value,)


def _checked(name: str, value: Any) -> Any:
    """A value as the record has it. :raises TypeError, ValueError: it cannot be one."""
    if value is None:
        return _DEFAULTS.get(name)
    if name in _FLAGS:
        return _flag(value)
    if name in _NUMBERS:
        return _number(value)
    if name in _TIMES:
        return _moment(value)
    text = _text(value)
    known = {"status": STATUSES, "visibility": VISIBILITIES}.get(name)
    if known is not None and text not in known:
        raise InvalidImageRef(
            f"filter {name}: unknown value {text!r}", hint=f"use one of {', '.join(known)}"
        )
    return text


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def _number(value: Any) -> int:
    if isinstance(value, bool) or int(value) < 0:
        raise ValueError("not a number from 0 up")
    return int(value)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False}[_text(value).lower()]


def _moment(value: Any) -> datetime:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
