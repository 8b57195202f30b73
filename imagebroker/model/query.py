"""What `get_all` and `import_image` may be asked."""

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
    """What a backend is asked to list.

    :raises InvalidImageRef: an argument is not one that `get_all` takes.
    """
    for name in filters or {}:
        own = isinstance(name, str) and name.startswith("property-") and name != "property-"
        if name not in _FILTERS and name not in _MORE_FILTERS and not own:
            raise InvalidImageRef(
                f"filters: {name!r} is unknown",
                hint="filter by a field of Image, tag, size_min, size_max, changes-since or "
                "property-<name>",
            )
    for title, number in (("limit", limit), ("page_size", page_size)):
        if number is None:
            continue
        least = 1 if title == "page_size" else 0
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise InvalidImageRef(f"{title} is {number!r}, not a number of images")
    if marker is not None and not isinstance(marker, str):
        raise InvalidImageRef(f"marker is {type(marker).__name__}, not the id of an image")
    if sort_key not in _SORT_KEYS or sort_dir not in ("asc", "desc"):
        raise InvalidImageRef(
            f"cannot sort by {sort_key!r} {sort_dir!r}",
            hint=f"asc or desc by one of {', '.join(sorted(_SORT_KEYS))}",
        )
    return ImageQuery(dict(filters or {}), marker, limit, page_size, sort_key, sort_dir)


def checked_import(url: str | None, stores: Sequence[str]) -> None:
    """:raises InvalidImageRef: there is nothing to import, or from nowhere that can be asked."""
    if isinstance(stores, str) or not all(isinstance(store, str) and store for store in stores):
        raise InvalidImageRef("stores is a list of names")
    if url is None:
        if not stores:
            raise InvalidImageRef(
                "nothing is to be imported", hint="pass the url of the data, or stores to copy to"
            )
    elif parse(url).scheme not in ("http", "https"):
        raise InvalidImageRef(f"{parse(url)} is no http(s) URL", hint="the service fetches it")
