"""A service's dict of an image and our `Image`, translated both ways.

No dict of a caller is changed.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from imagebroker.model.image import ACTIVE, Image
from imagebroker.redaction import redact

LOG = logging.getLogger(__name__)

#: Properties that Nova keeps as JSON.
_JSON = ("block_device_mapping", "mappings")
#: Keys whose meaning is that of our field.
_FIELDS: Mapping[str, str] = {
    "id": "id", "name": "name", "owner": "owner", "visibility": "visibility",
    "os_hidden": "hidden", "protected": "protected", "tags": "tags",
    "disk_format": "disk_format", "container_format": "container_format",
    "min_disk": "min_disk", "min_ram": "min_ram",
}  # fmt: skip
#: Keys that the service sets itself; Nova drops them, or sends them back as they are.
_READ_ONLY = frozenset({
    "status", "created_at", "updated_at", "deleted_at", "deleted", "size", "virtual_size",
    "checksum", "os_hash_algo", "os_hash_value", "locations", "direct_url", "stores", "self",
    "file", "schema", "members",
})  # fmt: skip
#: Keys that are translated one by one below.
_OTHERS = frozenset({"is_public", "location", "properties"})


def record_of(image: Image, include_locations: bool = False) -> dict[str, Any]:
    """The dict that Nova's image API returns, and what it leaves out of the record."""
    algorithm, digest = digest_of(image)
    record: dict[str, Any] = {
        # Where a backend has no ids, what it can be found by.
        "id": image.id if image.id is not None else image.ref,
        "name": image.name,
        # Without a record there is nothing to wait for.
        "status": image.status or ACTIVE,
        "owner": image.owner,
        "size": image.size or 0,  # as the schemas of Nova's API want it
        "min_disk": image.min_disk or 0,
        "min_ram": image.min_ram or 0,
        "disk_format": image.disk_format,
        "container_format": image.container_format,
        "checksum": image.checksums.get("md5"),
        "os_hash_algo": algorithm,
        "os_hash_value": digest,
        "is_public": image.visibility == "public",
        "created_at": image.created_at,
        "updated_at": image.updated_at,
        "deleted_at": image.deleted_at,
        "deleted": image.deleted,
        "properties": decoded(image),
        "os_hidden": bool(image.hidden),
        "protected": bool(image.protected),
        "tags": list(image.tags or ()),
        "virtual_size": image.virtual_size,
    }
    if image.visibility is not None:
        record["visibility"] = image.visibility
    if image.stores is not None:
        record["stores"] = ",".join(image.stores)
    if include_locations:
        locations = image.locations or ()
        record["locations"] = [{"url": x.url, "metadata": dict(x.metadata)} for x in locations]
        record["direct_url"] = locations[0].url if locations else None
    return record


def digest_of(image: Image) -> tuple[str | None, str | None]:
    """The digest beside md5, of which Glance's record has one."""
    others = [item for item in image.checksums.items() if item[0] != "md5" and item[1]]
    return image.strong_checksum or (others[0] if others else (None, None))


def decoded(image: Image) -> dict[str, Any]:
    """The properties of an image, with those that services keep as JSON parsed."""
    properties = dict(image.properties)
    for name in _JSON:
        if isinstance(properties.get(name), str):
            try:
                properties[name] = json.loads(properties[name])
            except (ValueError, RecursionError) as error:
                # One owner's typing error must not make a whole list unreadable.
                LOG.warning("%s: the property %s is not JSON: %s", image.ref, name, redact(error))
    return properties


def created_fields(image_info: Mapping[str, Any]) -> dict[str, Any]:
    """`image_info` of Nova's `create` as `Broker.create` takes it; None is not set.

    `instance_owner` is not stored as a property: it makes that project a member.
    """
    properties = dict(image_info.get("properties") or {})
    member = properties.pop("instance_owner", None)
    fields = fields_of({**image_info, "properties": properties})
    if member:
        fields["members"] = [str(member)]
    return {name: value for name, value in fields.items() if value is not None}


def changed_fields(image_info: Mapping[str, Any]) -> dict[str, Any]:
    """`image_info` of Nova's `update` as `Broker.update` takes it; `id` cannot be changed."""
    fields = fields_of(image_info)
    fields.pop("id", None)
    return fields


def fields_of(image_info: Mapping[str, Any]) -> dict[str, Any]:
    """The dict of a service as the fields of a record of ours. Other keys are properties."""
    fields: dict[str, Any] = {}
    properties = dict(image_info.get("properties") or {})
    for key, value in image_info.items():
        if key in _FIELDS:
            fields[_FIELDS[key]] = _number(value) if key in ("min_disk", "min_ram") else value
        elif key not in _READ_ONLY and key not in _OTHERS:
            properties.setdefault(key, value)  # as in Glance, where properties are attributes
    if image_info.get("is_public") is not None:
        fields["visibility"] = _visibility(bool(image_info["is_public"]), fields.get("visibility"))
    if image_info.get("location"):
        fields["locations"] = [image_info["location"]]
    encoded = _encoded(properties)
    if encoded or "properties" in image_info:
        fields["properties"] = encoded
    return fields


def _visibility(public: bool, given: Any) -> Any:
    """What `is_public` says, in the words of the record where these do not contradict it."""
    if given is not None and (given == "public") == public:
        return given
    return "public" if public else "private"


def _number(value: Any) -> Any:
    """Nova takes numbers as text; what is not a number is left for the broker to refuse."""
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value) else value


def _encoded(properties: Mapping[str, Any]) -> dict[str, str | None]:
    """Own properties as Glance keeps them: text. None removes."""
    return {
        name: _text(name, value)
        for name, value in properties.items()
        if not (name in ("kernel_id", "ramdisk_id") and _is_unset(value))
    }


def _text(name: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value) if name in _JSON else str(value)


def _is_unset(value: Any) -> bool:
    """Nova spells "no kernel" as text."""
    return isinstance(value, str) and value.strip().lower() in ("none", "")
