"""The record of an image: what is known, or claimed, about it. Glance v2 vocabulary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from types import MappingProxyType
from typing import Any

from imagebroker.exceptions import InvalidImageRef
from imagebroker.model.algorithms import STRONG
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


@dataclass(frozen=True)
class Location:
    """Another ref for the same bytes; `metadata` comes from the server and is not trusted."""

    url: str
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def store(self) -> str | None:
        """The name of the service's store that has these bytes, if the service says so."""
        # Glance calls it `backend` up to Rocky.
        found = self.metadata.get("store") or self.metadata.get("backend")
        return found if isinstance(found, str) else None

    def __repr__(self) -> str:
        return shown_fields(self)


@dataclass(frozen=True)
class Image:
    """An image, as far as it is known. Unknown is None, never 0 or an empty string."""

    #: A string that the same broker accepts as a ref.
    ref: str
    #: None if the backend has no ids.
    id: str | None = None
    name: str | None = None
    status: str | None = None
    visibility: str | None = None
    #: The project that owns it.
    owner: str | None = None
    #: True: lists show it only on request.
    hidden: bool | None = None
    protected: bool | None = None
    #: Projects that a `shared` image is shared with.
    members: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    #: Size of the data, as stored and downloaded, in bytes.
    size: int | None = None
    #: Size of the disk that a guest sees, in bytes.
    virtual_size: int | None = None
    disk_format: str | None = None
    container_format: str | None = None
    #: GiB.
    min_disk: int | None = None
    #: MiB.
    min_ram: int | None = None
    #: Algorithm (hashlib's name) to lower-case hex digest of the data.
    checksums: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    #: Timezone-aware.
    created_at: datetime | None = None
    updated_at: datetime | None = None
    deleted_at: datetime | None = None
    properties: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    locations: tuple[Location, ...] | None = None
    #: Changes whenever the data does (a strong ETag, a digest); None if there is no such value.
    version: str | None = None
    #: Names of the service's stores that have the data.
    stores: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        return shown_fields(self)  # redacted: the query of a presigned URL must not be logged

    @property
    def deleted(self) -> bool:
        return self.deleted_at is not None or self.status in (DELETED, PENDING_DELETE)

    @property
    def strong_checksum(self) -> tuple[str, str] | None:
        """`(algorithm, digest)` of the best strong digest, or None."""
        for algorithm in STRONG:
            if self.checksums.get(algorithm):
                return algorithm, self.checksums[algorithm]
        return None


def visible(image: Image, *, is_admin: bool, project: str | None) -> bool:
    """Whether a caller can see an image: admins all, others public, own and shared ones."""
    if is_admin or image.visibility in ("public", "community"):
        return True
    if project is None:
        return False
    return image.owner == project or (
        image.visibility == "shared" and project in (image.members or ())
    )


@dataclass(frozen=True)
class ImageQuery:
    """Which images `get_all` lists, and in which order."""

    #: `Image` field names, `property-<name>`, `changes-since`, `size_min`, `size_max`, `tag`.
    filters: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    #: Id of the last image already seen.
    marker: str | None = None
    #: Maximum number of images in total.
    limit: int | None = None
    #: Maximum number of images per request.
    page_size: int | None = None
    sort_key: str = "created_at"
    sort_dir: str = "desc"

    def apply(self, images: Iterable[Image]) -> Iterator[Image]:
        """Those of `images` that it asks for, in its order: filters, marker and limit included.

        For backends whose storage cannot do it: `return query.apply(self.host.bounded(images))`.

        :raises InvalidImageRef: an argument is invalid; at the call.
        :raises InvalidImageRef: the marker is not among them; at the first step.
        """
        from imagebroker.model.selection import selected  # only some lists need it

        return selected(images, self)


#: The fields that `create` and `update` can set, with the types of their values.
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
    """A copy of `image_info`, with sequences as tuples.

    :raises InvalidImageRef: a key is not a field that can be set, or a value has the wrong type.
    """
    if not isinstance(image_info, Mapping):
        raise InvalidImageRef(f"image_info must be a mapping, not {type(image_info).__name__}")
    checked: dict[str, Any] = {}
    for key, value in image_info.items():
        kinds = SETTABLE.get(key) if isinstance(key, str) else None
        if kinds is None:
            raise InvalidImageRef(
                f"image_info: {key!r} cannot be set",
                hint=f"set one of {', '.join(SETTABLE)}; put custom names in 'properties'",
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
            f"image_info: unknown visibility {value!r}",
            hint=f"use one of {', '.join(VISIBILITIES)}",
        )
    if key == "id" and not _UUID.fullmatch(str(value)):
        raise InvalidImageRef(
            f"image_info: id {value!r} is not a UUID",
            hint="write one such as 3f2504e0-4f89-11d3-9a0c-0305e82c3301, or none to get a new one",
        )
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) and name for name in value):
            raise InvalidImageRef(f"image_info: names in {key} must be text, and not empty")
        return dict(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return tuple(_strings(key, value))
    return value


def _strings(key: str, values: Iterable[Any]) -> Iterator[Any]:
    for value in values if isinstance(values, (list, tuple)) else sorted(values):
        if key != "locations" and not isinstance(value, str):
            raise InvalidImageRef(f"image_info: {key} contains {type(value).__name__}, not text")
        yield value


#: The names of the fields, in the order in which they are shown.
FIELDS = tuple(f.name for f in fields(Image))


def without_none(info: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a new record, without those that are None."""
    return {name: value for name, value in info.items() if value is not None}


#: The fields of a record that a copy keeps.
_COPIED = ("name", "disk_format", "container_format", "min_disk", "min_ram", "tags")


#: The property with the root of the hash tree over an image's bytes; swarms hold pieces to it.
TREE_ROOT = "imagebroker_btmh"


def without_tree_root(info: dict[str, Any]) -> dict[str, Any]:
    """The same for other bytes, such as those of an image that was unpacked."""
    kept = {k: v for k, v in info.get("properties", {}).items() if k != TREE_ROOT}
    return info | ({"properties": kept} if "properties" in info else {})


def copied_fields(image: Image) -> dict[str, Any]:
    """The fields of the record of a copy of `image`: those that say something."""
    found = {name: getattr(image, name) for name in _COPIED}
    if image.id:
        found["properties"] = dict(image.properties)
    return {name: value for name, value in found.items() if value}
