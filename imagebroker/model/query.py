"""Checks the arguments of `get_all` and `import_image`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imagebroker.exceptions import InvalidImageRef
from imagebroker.model.image import FIELDS, ImageQuery
from imagebroker.model.reference import parse

_FILTERS = frozenset(FIELDS) - {"checksums", "properties", "locations", "members", "ref"}
_MORE_FILTERS = frozenset({"changes-since", "size_min", "size_max", "tag"})
_SORT_KEYS = _FILTERS - {"tags"}


def checked_query(
    filters: Mapping[str, Any] | None,
    marker: str | None,
    limit: int | None,
    page_size: int | None,
    sort_key: str,
    sort_dir: str,
) -> ImageQuery:
    """The query for a backend, from the arguments of `get_all`.

    :raises InvalidImageRef: an argument is invalid.
    """
    for name in filters or {}:
        own = isinstance(name, str) and name.startswith("property-") and name != "property-"
        if name not in _FILTERS and name not in _MORE_FILTERS and not own:
            raise InvalidImageRef(
                f"unknown filter {name!r}",
                hint="use a field of Image, tag, size_min, size_max, changes-since or "
                "property-<name>",
            )
    for title, number in (("limit", limit), ("page_size", page_size)):
        if number is None:
            continue
        least = 1 if title == "page_size" else 0
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise InvalidImageRef(f"{title} must be a number of images, not {number!r}")
    if marker is not None and not isinstance(marker, str):
        raise InvalidImageRef(f"marker must be the id of an image, not {type(marker).__name__}")
    if sort_key not in _SORT_KEYS or sort_dir not in ("asc", "desc"):
        raise InvalidImageRef(
            f"cannot sort by {sort_key!r} {sort_dir!r}",
            hint=f"sort by one of {', '.join(sorted(_SORT_KEYS))}, asc or desc",
        )
    return ImageQuery(dict(filters or {}), marker, limit, page_size, sort_key, sort_dir)


def checked_import(url: str | None, stores: Sequence[str]) -> None:
    """:raises InvalidImageRef: nothing to import, or the URL is not http(s)."""
    if isinstance(stores, str) or not all(isinstance(store, str) and store for store in stores):
        raise InvalidImageRef("stores must be a list of names")
    if url is None:
        if not stores:
            raise InvalidImageRef(
                "nothing to import", hint="pass the URL of the data, or the stores to copy it to"
            )
    elif parse(url).scheme not in ("http", "https"):
        raise InvalidImageRef(
            f"{parse(url)} is not an http(s) URL",
            hint="pass an http(s) URL that the image service can fetch",
        )
