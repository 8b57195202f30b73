"""Cinder's dicts and arguments, translated to ours and back; no dict of a caller is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imagebroker.compat.listing import query_of as query_like_novas
from imagebroker.compat.records import decoded, digest_of, fields_of
from imagebroker.exceptions import InvalidImageRef
from imagebroker.model.image import (
    ACTIVE,
    DELETED,
    PENDING_DELETE,
    STATUSES,
    Image,
    without_none,
)
from imagebroker.model.service import Member, Store

#: The property that Cinder also wants beside the attributes.
_KEY_ID = "cinder_encryption_key_id"
_ARGUMENTS = ("filters", "marker", "limit", "sort_key", "sort_dir")
#: What a list shows that names no status.
_ANY_STATUS = tuple(each for each in STATUSES if each not in (DELETED, PENDING_DELETE))


def record_of(image: Image) -> dict[str, Any]:
    """The dict that Cinder's image service returns."""
    algorithm, digest = digest_of(image)
    record: dict[str, Any] = {
        "id": image.id if image.id is not None else image.ref,
        "name": image.name,
        "status": image.status or ACTIVE,
        "visibility": image.visibility,
        "owner": image.owner,
        "protected": bool(image.protected),
        "os_hidden": bool(image.hidden),
        "tags": list(image.tags or ()),
        "size": image.size,
        "virtual_size": image.virtual_size,
        "disk_format": image.disk_format,
        "container_format": image.container_format,
        "min_disk": image.min_disk or 0,
        "min_ram": image.min_ram or 0,
        "checksum": image.checksums.get("md5"),
        "os_hash_algo": algorithm,
        "os_hash_value": digest,
        "created_at": image.created_at,
        "updated_at": image.updated_at,
        "properties": decoded(image),
    }
    if image.id is not None:
        record["file"] = f"/v2/images/{image.id}/file"
    if image.stores is not None:
        record["stores"] = ",".join(image.stores)
    if _KEY_ID in image.properties:
        record[_KEY_ID] = image.properties[_KEY_ID]
    return record


def created_fields(image_meta: Mapping[str, Any]) -> dict[str, Any]:
    """`image_meta` of `create` as `Broker.create` takes it; None is not set."""
    fields = without_none(fields_of(image_meta))
    fields["properties"] = without_none(fields.get("properties") or {})
    return fields


def changed_fields(image_meta: Mapping[str, Any]) -> dict[str, Any]:
    """`image_meta` of `update` as `Broker.update` takes it; `id` cannot be changed."""
    fields = fields_of(image_meta)
    fields.pop("id", None)
    return fields


def query_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `detail` as `Broker.get_all` takes them.

    :raises InvalidImageRef: more than one key to sort by, or a limit that is not a number.
    """
    query = query_like_novas({name: arguments.get(name) for name in _ARGUMENTS})
    query["filters"] = {"status": _ANY_STATUS, **query["filters"]}
    for name in ("sort_key", "sort_dir"):
        if isinstance(query.get(name), (list, tuple)):
            if len(query[name]) != 1:
                raise InvalidImageRef(f"{name} has {len(query[name])} values", hint="sort by one")
            query[name] = query[name][0]
    if isinstance(query.get("limit"), str):
        try:
            query["limit"] = int(query["limit"])
        except ValueError:
            raise InvalidImageRef(f"limit is {query['limit']!r:.80}, not a number") from None
    return query


def listed_member(image_id: str, member: Member) -> dict[str, Any]:
    """A member as Glance's API lists it."""
    times = {"created_at": member.created_at, "updated_at": member.updated_at}
    return {
        "image_id": image_id,
        "member_id": member.project,
        "status": member.status,
        **{name: when.strftime("%Y-%m-%dT%H:%M:%SZ") for name, when in times.items() if when},
        "schema": "/v2/schemas/member",
    }


def listed_store(store: Store) -> dict[str, str]:
    """A store as Glance's API lists it: what does not hold is left out."""
    found = {"id": store.name}
    if store.description is not None:
        found["description"] = store.description
    if store.default:
        found["default"] = "true"
    if store.read_only:
        found["read-only"] = "true"
    return found
