"""The record of an image: what is known, or claimed, about it. Glance v2 vocabulary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from types import MappingProxyType
from typing import Any

from imagebroker.exceptions import InvalidImageRef
from imagebroker.redaction import shown_fields

QUEUED = "queued"
SAVING = "saving"
UPLOADING = "uploading"
IMPORTING = "importing"
ACTIVE = "active"
DEACTIVATED = "deactivated"
KILLED = "killed"
DELETED = "deleted"
PENDING_DELETE = "pending_delete"

#: The statuses of the Glance v2 API.
STATUSES = (
    QUEUED, SAVING, UPLOADING, IMPORTING, ACTIVE, DEACTIVATED, KILLED, DELETED, PENDING_DELETE,
)  # fmt: skip
VISIBILITIES = ("public", "community", "shared", "private")

#: Digests that prove content, best first; md5 and sha1 are not among them.
STRONG = ("sha512", "sha256", "sha384", "sha3_512", "sha3_256", "blake2b")


@dataclass(frozen=True)
class Location:
    """Another ref for the same bytes; `metadata` is the server's word, believed in nothing."""

    url: str
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __repr__(self) -> str:
        return shown_fields(self)


@dataclass(frozen=True)
class Image:
    """What is known about an image. Unknown is None, never 0 or an empty string."""

    #: A string that the same broker accepts anywhere.
    ref: str
    #: None where a backend has no ids.
    id: str | None = None
    name: str | None = None
    status: str | None = None
    visibility: str | None = None
    #: The project that owns it.
    owner: str | None = None
    #: True: not in lists unless asked for.
    hidden: bool | None = None
    protected: bool | None = None
    #: Projects that a `shared` image is shared with.
    members: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    #: Bytes as stored and downloaded.
    size: int | None = None
    #: Bytes of the disk that a guest sees.
    virtual_size: int | None = None
    disk_format: str | None = None
    container_format: str | None = None
    #: GiB.
    min_disk: int | None = None
    #: MiB.
    min_ram: int | None = None
    #: Algorithm (hashlib's name) to lower-case hex digest of the stored bytes.
    checksums: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    #: Aware datetimes.
    created_at: datetime | None = None
    updated_at: datetime | None = None
    deleted_at: datetime | None = None
    properties: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    locations: tuple[Location, ...] | None = None
    #: Changes whenever the bytes do (a strong ETag, a digest); None if nothing does.
    version: str | None = None
    #: The service's own stores that have the bytes, by name.
    stores: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        return shown_fields(self)  # the query of a presigned URL belongs into no log

    @property
    def deleted(self) -> bool:
        return self.deleted_at is not None or self.status in (DELETED, PENDING_DELETE)

    @property
    def strong_checksum(self) -> tuple[str, str] | None:
        """`(algorithm, digest)` of the best digest that proves content, or None."""
        for algorithm in STRONG:
            if self.checksums.get(algorithm):
                return algorithm, self.checksums[algorithm]
        return None


def visible(image: Image, *, is_admin: bool, project: str | None) -> bool:
    """Who may see what, in one place: admins all, others what is public, theirs, or shared."""
    if is_admin or image.visibility in ("public", "community"):
        return True
    if project is None:
        return False
    return image.owner == project or (
        image.visibility == "shared" and project in (image.members or ())
    )


@dataclass(frozen=True)
class ImageQuery:
    """Which images `get_all` is to list, and how."""

    #: `Image` field names, `property-<name>`, `changes-since`, `size_min`, `size_max`, `tag`.
    filters: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    #: Id of the last image already seen.
    marker: str | None = None
    #: At most so many images in all.
    limit: int | None = None
    #: At most so many images in one request.
    page_size: int | None = None
    sort_key: str = "created_at"
    sort_dir: str = "desc"


#: What `create` and `update` may set, with the type each value must have.
SETTABLE: Mapping[str, tuple[type, ...]] = MappingProxyType({
    "id": (str,),
    "name": (str,),
    "visibility": (str,),
    "owner": (str,),
    "hidden": (bool,),
    "protected": (bool,),
    "members": (list, tuple, set, frozenset),
    "tags": (list, tuple, set, frozenset),
    "size": (int,),
    "disk_format": (str,),
    "container_format": (str,),
    "min_disk": (int,),
    "min_ram": (int,),
    "checksums": (dict, Mapping),
    "properties": (dict, Mapping),
    "locations": (list, tuple),
})  # fmt: skip
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def checked_info(image_info: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `image_info` with sequences as tuples; the caller's mapping stays as it is.

    :raises InvalidImageRef: a key is not a field that can be set, or a value has the wrong type.
    """
    if not isinstance(image_info, Mapping):
        raise InvalidImageRef(f"image_info is a mapping, not {type(image_info).__name__}")
    checked: dict[str, Any] = {}
    for key, value in image_info.items():
        kinds = SETTABLE.get(key) if isinstance(key, str) else None
        if kinds is None:
            raise InvalidImageRef(
                f"image_info: {key!r} cannot be set",
                hint=f"fields are {', '.join(SETTABLE)}; own names go under 'properties'",
            )
        checked[key] = _checked(key, value, kinds)
    return checked


def _checked(key: str, value: Any, kinds: tuple[type, ...]) -> Any:
    if value is None:
        return None
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise InvalidImageRef(f"image_info: {key} cannot be {type(value).__name__}")
    if isinstance(value, int) and value < 0:
        raise InvalidImageRef(f"image_info: {key} cannot be negative")
    if key == "visibility" and value not in VISIBILITIES:
        raise InvalidImageRef(
            f"image_info: visibility {value!r} is unknown", hint=f"one of {', '.join(VISIBILITIES)}"
        )
    if key == "id" and not _UUID.fullmatch(str(value)):
        raise InvalidImageRef(f"image_info: id {value!r} is not a UUID")
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) and name for name in value):
            raise InvalidImageRef(f"image_info: names in {key} are text")
        return dict(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return tuple(_strings(key, value))
    return value


def _strings(key: str, values: Iterable[Any]) -> Iterator[Any]:
    for value in values if isinstance(values, (list, tuple)) else sorted(values):
        if key != "locations" and not isinstance(value, str):
            raise InvalidImageRef(f"image_info: {key} holds {type(value).__name__}, not text")
        yield value


#: Names of the fields, in the order in which they are shown.
FIELDS = tuple(f.name for f in fields(Image))


def given(info: Mapping[str, Any]) -> dict[str, Any]:
    """Fields for a new record: what is None is not set."""
    return {name: value for name, value in info.items() if value is not None}


#: What a copy keeps of the original's record.
_COPIED = ("name", "disk_format", "container_format", "min_disk", "min_ram", "tags")


def copied_fields(image: Image) -> dict[str, Any]:
    """What a copy of `image` begins with."""
    found = {name: getattr(image, name) for name in _COPIED}
    return given(found) | ({"properties": dict(image.properties)} if image.id else {})
