"""The rules for records: who can do what, and which values are valid. No I/O."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from imagebroker.plugin import (
    ACTIVE,
    Image,
    InvalidImageRef,
    NotAuthorized,
    PolicyViolation,
    UnsupportedOperation,
    visible,
)

if TYPE_CHECKING:
    from oslo_context.context import RequestContext

    Context = RequestContext | None

#: The largest number that a record can hold.
MAX_INT = 2**63 - 1

#: The value of each field when it is removed. `protected` is not included: an image must not lose
#: its protection by accident.
_REMOVED: Mapping[str, Any] = {
    "name": None, "disk_format": None, "container_format": None, "owner": None,
    "visibility": "shared", "hidden": False, "min_disk": 0, "min_ram": 0,
    "tags": (), "members": (), "properties": {},
}  # fmt: skip
_KINDS: Mapping[str, type] = {
    "name": str, "disk_format": str, "container_format": str, "owner": str, "visibility": str,
    "hidden": bool, "protected": bool, "min_disk": int, "min_ram": int,
}  # fmt: skip
#: The defaults of a new record.
_NEW = Image(
    ref="", status="queued", visibility="shared", hidden=False, protected=False,
    container_format="bare", min_disk=0, min_ram=0, tags=(), members=(),
)  # fmt: skip
VISIBILITIES = ("public", "community", "shared", "private")


class Caller(NamedTuple):
    """What the store knows about a caller: it trusts the context, as Glance does."""

    is_admin: bool
    project: str | None

    @classmethod
    def of(cls, context: Context) -> Caller:
        """None is the service itself: an admin without a project."""
        if context is None:
            return cls(is_admin=True, project=None)
        return cls(is_admin=bool(context.is_admin), project=context.project_id)

    def sees(self, image: Image) -> bool:
        return visible(image, is_admin=self.is_admin, project=self.project)

    def may_change(self, image: Image) -> bool:
        return self.is_admin or (self.project is not None and self.project == image.owner)

    def shown(self, image: Image) -> Image:
        """The record as this caller sees it: only its owner sees with whom it is shared."""
        if self.may_change(image):
            return image
        mine = tuple(project for project in image.members or () if project == self.project)
        return replace(image, members=mine)


def _now() -> datetime:
    return datetime.now(UTC)


def new_image(caller: Caller, image: Image, *, has_data: bool) -> Image:
    """The record of a new image.

    :raises InvalidImageRef, NotAuthorized, UnsupportedOperation: a field is not allowed.
    """
    if image.locations:
        raise UnsupportedOperation(
            "the file backend does not support locations",
            hint="create the image with data, or in a backend that supports locations",
        )
    if not has_data and (image.size or image.checksums):
        raise InvalidImageRef(
            "size and checksums are set, but there is no data",
            hint="omit them: they are computed when the data is stored",
        )
    wanted = {
        name: getattr(image, name)
        for name in (*_KINDS, "tags", "members", "properties")
        if getattr(image, name) is not None
    }
    image_id, moment = (image.id or str(uuid.uuid4())).lower(), _now()
    _check_uuid(image_id)
    blank = replace(_NEW, id=image_id, owner=caller.project, created_at=moment, updated_at=moment)
    return _with(caller, blank, wanted)


def changed_image(
    caller: Caller, image: Image, changes: Mapping[str, Any], *, purge_props: bool
) -> Image:
    """`image` after an update.

    :raises InvalidImageRef: a field does not exist, cannot be changed, or has an invalid value.
    :raises NotAuthorized, PolicyViolation: this caller cannot do that; no caller can.
    """
    wanted: dict[str, Any] = {}
    for name, value in changes.items():
        if name == "protected" and value is None:
            raise PolicyViolation(
                f"the field protected of image {image.id} cannot be removed",
                hint="set protected to false",
            )
        wanted[name] = _REMOVED.get(name) if value is None else value
    if purge_props or "properties" in wanted:
        kept = {} if purge_props else image.properties
        wanted["properties"] = {**kept, **dict(changes.get("properties") or {})}
        if "properties" in changes and changes["properties"] is None:
            wanted["properties"] = {}
    return replace(_with(caller, image, wanted), updated_at=_later(image))


def active_image(image: Image, size: int, checksums: Mapping[str, str]) -> Image:
    """`image` once its data is stored."""
    return replace(
        image,
        status=ACTIVE,
        size=size,
        checksums=checksums,
        version=f"sha256:{checksums['sha256']}",
        updated_at=_later(image),
    )


def deleted_image(image: Image) -> Image:
    """`image` after its deletion."""
    moment = _later(image)
    return replace(image, status="deleted", deleted_at=moment, updated_at=moment)


def _later(image: Image) -> datetime:
    """The time of a change: `updated_at` never goes back, even if the clock does."""
    earliest = (image.updated_at or _now()) + timedelta(microseconds=1)
    return max(_now(), earliest)


def _with(caller: Caller, image: Image, wanted: Mapping[str, Any]) -> Image:
    values = {name: _checked(name, value) for name, value in wanted.items()}
    _check_allowed(caller, image, values)
    return replace(image, **values)


def _check_allowed(caller: Caller, image: Image, values: Mapping[str, Any]) -> None:
    """Only admins can set two of the fields, as in Glance's default policy."""
    if caller.is_admin:
        return
    if values.get("visibility", image.visibility) == "public" != image.visibility:
        raise NotAuthorized(
            "only an admin can make an image public", hint="use 'community', or ask an admin"
        )
    if values.get("owner", image.owner) != image.owner:
        raise NotAuthorized("only an admin can set another owner", hint="omit the owner")


def _checked(name: str, value: Any) -> Any:
    """One value, as it will be stored."""
    if name in ("tags", "members"):
        return tuple(dict.fromkeys(_texts(name, value)))
    if name == "properties":
        return _properties(value)
    kind = _KINDS.get(name)
    if kind is None:
        raise InvalidImageRef(
            f"{name!r} cannot be set",
            hint=f"set one of {', '.join((*_KINDS, 'tags', 'members', 'properties'))}",
        )
    if value is None and _REMOVED.get(name, 0) is None:
        return None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidImageRef(f"{name} cannot be {type(value).__name__}")
    if isinstance(value, int) and not 0 <= value <= MAX_INT:
        raise InvalidImageRef(f"{name} is not between 0 and {MAX_INT}")
    if name == "visibility" and value not in VISIBILITIES:
        raise InvalidImageRef(
            f"unknown visibility {value!r}", hint=f"use one of {', '.join(VISIBILITIES)}"
        )
    return _text(name, value) if kind is str else value


def _properties(properties: Any) -> dict[str, Any]:
    if not isinstance(properties, Mapping):
        raise InvalidImageRef(f"properties must be a mapping, not {type(properties).__name__}")
    kept = {}
    for name, value in properties.items():
        if not name or value is None:
            continue
        try:
            kept[_text("property", name)] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidImageRef(
                f"property {name!r} cannot be stored: {error}",
                hint="use text, or a value that JSON can represent",
            ) from error
        if isinstance(value, str):
            _text(f"property {name!r}", value)
    return kept


def _texts(name: str, values: Any) -> Iterable[str]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InvalidImageRef(f"{name} must be a list of text, not {type(values).__name__}")
    return [_text(name, value) for value in values]


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidImageRef(f"{what} must be text, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidImageRef(
            f"{what} {value!r} is not valid text", hint="write it in UTF-8"
        ) from None
    return value


def _check_uuid(image_id: str) -> None:
    try:
        valid = str(uuid.UUID(image_id)) == image_id
    except ValueError:
        valid = False
    if not valid:
        raise InvalidImageRef(f"the id {image_id!r} is not a UUID", hint="omit it to get a new one")
