"""Filters and sorts the files of a list. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from imagebroker.plugin import Image, ImageQuery, InvalidImageRef

#: The fields that SFTP has; all others are unknown, and only match None.
_TEXTS = ("name", "status", "ref")
_TIMES = ("updated_at", "created_at")
_UNKNOWN = (
    "id", "visibility", "owner", "disk_format", "container_format", "virtual_size", "min_disk",
    "min_ram", "protected", "deleted_at", "version", "tag", "tags", "members", "checksums",
)  # fmt: skip
_SORTABLE = (*_TEXTS, "size", *_TIMES, *_UNKNOWN[:-5])


class Selection:
    """A checked query over files."""

    def __init__(self, query: ImageQuery) -> None:
        """:raises InvalidImageRef: an argument is invalid."""
        self._conditions = [_checked(name, value) for name, value in query.filters.items()]
        self._marker = query.marker
        self._limit = query.limit
        self._key = query.sort_key
        self._descending = query.sort_dir == "desc"
        if self._key not in _SORTABLE:
            raise InvalidImageRef(
                f"unknown sort_key {self._key!r}", hint=f"use one of {', '.join(_SORTABLE)}"
            )
        if query.sort_dir not in ("asc", "desc"):
            raise InvalidImageRef(f"unknown sort_dir {query.sort_dir!r}", hint="use asc or desc")
        if self._limit is not None and self._limit < 0:
            raise InvalidImageRef(
                f"limit {self._limit!r} is negative", hint="use a number of 0 or more"
            )

    def of(self, images: Iterable[Image]) -> Iterator[Image]:
        """The images that match, in order.

        :raises InvalidImageRef: none of them is the marker.
        """
        if self._limit == 0:
            return
        ordered = self._ordered(images)
        chosen = (image for image in self._after_marker(ordered) if self._holds(image))
        yield from islice(chosen, self._limit)

    def _ordered(self, images: Iterable[Image]) -> list[Image]:
        """Sorted by the key, then by name; None comes first, as in a database."""

        def place(image: Image) -> tuple[Any, ...]:
            value = getattr(image, self._key)
            return value is not None, value if value is not None else 0, image.name or "", image.ref

        return sorted(images, key=place, reverse=self._descending)

    def _after_marker(self, images: list[Image]) -> list[Image]:
        """The images after the marker, which is a ref or a name: files have no ids."""
        if self._marker is None:
            return images
        for index, image in enumerate(images):
            if self._marker in (image.ref, image.name):
                return images[index + 1 :]
        raise InvalidImageRef(
            f"the marker {self._marker!r} is not an image in this list",
            hint="pass the ref or the name of the last image seen",
        )

    def _holds(self, image: Image) -> bool:
        return all(_met(image, name, value) for name, value in self._conditions)


def _checked(name: str, value: Any) -> tuple[str, Any]:
    try:
        if name in ("size", "size_min", "size_max"):
            return name, None if value is None else int(value)
        if name == "changes-since" or name in _TIMES:
            return name, _moment(value)
    except (TypeError, ValueError) as error:
        raise InvalidImageRef(
            f"filter {name}: invalid value {value!r}",
            hint="write a size as a number of bytes, and a time like 2026-11-30T12:00:00Z",
        ) from error
    if name in (*_TEXTS, *_UNKNOWN, "hidden", "properties") or name.startswith("property-"):
        return name, value
    names = (*_TEXTS, "size", "size_min", "size_max", "changes-since", "property-<name>")
    raise InvalidImageRef(f"unknown filter {name!r}", hint=f"use one of {', '.join(names)}")


def _moment(value: Any) -> datetime | None:
    if value is None:
        return None
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _met(image: Image, name: str, value: Any) -> bool:
    if name == "size_min":
        return image.size is not None and image.size >= value
    if name == "size_max":
        return image.size is not None and image.size <= value
    if name == "changes-since":
        return image.updated_at is not None and image.updated_at >= value
    if name == "hidden":
        return str(value).lower() == "false"
    known = getattr(image, name) if name in (*_TEXTS, "size", *_TIMES) else None
    wanted = value if isinstance(value, (list, tuple, set, frozenset)) else (value,)
    return known in wanted
