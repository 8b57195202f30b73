"""The record of an image, from the headers of its object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote

from imagebroker.plugin import Image, http, objects

#: Bytes of metadata that an object takes (Swift: 4096 with the names).
MAX_METADATA = 3600
_META = "x-object-meta-"
_OURS = "x-object-meta-imagebroker-"
#: What programs call the segments of an object: TIME/SIZE/ or TIME/SIZE/SEGMENT_SIZE/.
_NAMED_SIZE = re.compile(r"/\d{9,}\.\d+/(\d{1,19})(?:/\d{1,19})?/?\Z")
#: What a POST removes unless it says it again.
_LASTING = (
    "content-disposition", "content-encoding", "x-delete-at", "x-object-manifest", "cache-control",
    "content-language", "expires", "x-robots-tag",
)  # fmt: skip


def image_of(ref: str, key: str, head: http.Head) -> Image:
    """The record; of somebody else's object, what Swift knows."""
    return objects.image_of(
        ref,
        key,
        metadata_in(head),
        size=head.content_length,
        changed=http.parse_date(head.get("last-modified")),
        version=http.strong_etag(head),
        checksums=_checksums(head),
    )


def metadata_in(head: http.Head) -> Mapping[str, str]:
    return {
        name.removeprefix(_META): value for name, value in head.fields if name.startswith(_META)
    }


def headers_for(metadata: Mapping[str, str]) -> dict[str, str]:
    return {f"X-Object-Meta-{name}": value for name, value in metadata.items()}


def lasting_headers(head: http.Head) -> dict[str, str]:
    """What must be said again when other metadata is set: Swift replaces all of it."""
    return {
        name: value
        for name, value in head.fields
        if name in _LASTING or (name.startswith(_META) and not name.startswith(_OURS))
    }


def is_static(head: http.Head) -> bool:
    """Whether it is a static large object: its segments are named by a manifest."""
    return (head.get("x-static-large-object") or "").lower() == "true"


def dynamic_prefix(head: http.Head) -> str | None:
    """What the segments of a dynamic large object begin with, as `container/prefix`."""
    return head.get("x-object-manifest")


def intended_size(head: http.Head) -> int | None:
    """The bytes that a dynamic large object had when it was stored; None if nothing says it.

    Swift joins the segments that are there, and misses none. But `swift` and rclone have the time,
    the size and maybe that of a segment in the names: `disk/1700000000.123456/5242880/1048576/`.
    """
    found = _NAMED_SIZE.search(unquote(dynamic_prefix(head) or ""))
    return None if found is None else int(found[1])


def _checksums(head: http.Head) -> dict[str, str]:
    """The ETag is the MD5 of the data, but for objects that consist of others."""
    etag = (head.get("etag") or "").strip('"')
    large = is_static(head) or dynamic_prefix(head) is not None
    return {"md5": etag} if not large and re.fullmatch("[0-9a-f]{32}", etag) else {}
