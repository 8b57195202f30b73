"""Creates, changes and deletes images; a create with data is all or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

from glanceclient.v2 import image_members

from imagebroker.plugin import (
    BackendError,
    Conflict,
    Image,
    ImageBrokerError,
    ImageData,
    ImageNotFound,
    InvalidImageRef,
    Location,
    NotAuthorized,
    PolicyViolation,
    TransferError,
    UnsupportedOperation,
    UploadFailed,
)
from imagebroker_glance.client import GlanceApi
from imagebroker_glance.errors import nothing_sent
from imagebroker_glance.identity import Identity
from imagebroker_glance.listing import ImageOf
from imagebroker_glance.record import API_NAMES, INTERNAL, api_properties, is_own
from imagebroker_glance.upload import send_data, status_after_break, wait_for_status

LOG = logging.getLogger(__name__)
T = TypeVar("T")

#: Fields of `Image` that are plain attributes in Glance, and the value that None stands for.
_PLAIN: Mapping[str, Any] = {
    "name": None, "visibility": "shared", "owner": None, "hidden": False, "protected": False,
    "tags": [], "disk_format": None, "container_format": None, "min_disk": 0, "min_ram": 0,
}  # fmt: skip
#: The tag of a record whose upload is running. A killed process leaves it, and `purge` finds it.
MARK = "imagebroker-upload"
#: The statuses in which a failed upload can be left.
UNFINISHED = ("queued", "saving", "killed")
#: Attempts for the last change of a record, after its data was sent.
_ATTEMPTS = 3
#: Seconds within which a record may still appear after its connection was lost.
_LATE = 5.0


class Records:
    """Writes records with one identity."""

    def __init__(self, api: GlanceApi, identity: Identity, image_of: ImageOf) -> None:
        self._api = api
        self._identity = identity
        self._image_of = image_of

    def create(self, image: Image, data: ImageData | None) -> Image:
        """Create a record; returns the stored one. Its id is chosen here or by the caller, so that
        it is known even if the answer to the first request is lost.

        :raises Conflict: the id exists (or existed: Glance never reuses an id).
        :raises UploadFailed: `.image_id` is set if the record could not be removed again.
        """
        if data is None and image.size == 0 and not image.locations:
            data = ImageData(b"", 0)  # as nova does: an empty image that is active
        if data is None and image.size is not None and not image.locations:
            raise InvalidImageRef(
                "image_info: Glance does not accept a size without data or locations",
                hint="omit it: Glance computes it from the data",
            )
        document = _document(image, later=data is not None)
        if data is not None:
            document["tags"] = [*document.get("tags", ()), MARK]
        image_id = self._begin(image.id, document)
        self._identity.outlive()
        try:
            self._fill(image_id, image, data)
        except BaseException as error:
            if data is not None and data.keep_record and isinstance(error, ImageBrokerError):
                self._keep(image_id, image, error)
            self._undo(image_id, error)
        return self._image(image_id, members=image.members)

    def update(
        self, image_id: str, changes: Mapping[str, Any], data: ImageData | None, purge_props: bool
    ) -> Image:
        raw, _ = self._api.show(self._identity, image_id)
        if data is not None:
            self._identity.outlive()
        if data is not None and raw.get("status") != "queued":
            raise Conflict(
                f"image {image_id} is {raw.get('status')}: its data cannot be replaced",
                hint="create a new image with the data",
            )
        patch = _patch(raw, changes, purge_props, with_data=data is not None)
        if patch:
            self._patch(image_id, patch)
        members = changes.get("members")
        if "members" in changes:
            self._set_members(image_id, members or ())
        self._add_locations(image_id, changes.get("locations") or (), known=raw)
        if data is not None:
            send_data(self._api, self._identity, image_id, data, changes.get("checksums"))
            if "tags" not in changes and MARK in (raw.get("tags") or ()):
                self._finish(image_id, raw["tags"])
        return self._image(image_id, members=tuple(members) if members is not None else None)

    def delete(self, image_id: str) -> None:
        """:raises PolicyViolation: it is protected."""
        try:
            self._remove(image_id)
        except NotAuthorized as error:
            ref = self._protected(image_id) if getattr(error, "status", None) == 403 else None
            if ref is not None:
                raise PolicyViolation(
                    f"image {image_id} is protected",
                    hint=f"remove its protection first: imagebroker update {ref} --no-protected",
                ) from error
            raise

    def _begin(self, chosen: str | None, document: dict[str, Any]) -> str:
        """Create the record. If the answer is lost, check whether it exists, and use it."""
        image_id = chosen or str(uuid.uuid4())
        if chosen and self._exists(chosen):
            raise Conflict(f"image {chosen} already exists", hint="choose another id")
        document["id"] = image_id
        try:
            self._api.ask(
                self._identity,
                # Not by `images.create`, which takes a property named `backend` for an option.
                lambda server: server.client.http_client.post("/v2/images", data=document)[1],
                what=f"record of image {image_id}",
            )
        except Conflict as error:
            error.hint = "choose another id: that of a deleted image cannot be used again"
            raise
        except (TransferError, BackendError) as error:
            if nothing_sent(error) or not self._appears(image_id):
                raise
        return image_id

    def _fill(self, image_id: str, image: Image, data: ImageData | None) -> None:
        if image.members:
            self._set_members(image_id, image.members)
        self._add_locations(image_id, image.locations or (), checksums=image.checksums)
        if data is not None:
            send_data(self._api, self._identity, image_id, data, image.checksums)
            self._finish(image_id, image.tags or (), protected=bool(image.protected))

    def _finish(self, image_id: str, tags: Iterable[str], *, protected: bool = False) -> None:
        """Mark the upload as finished. It is retried: one error must not waste hours of sending."""
        patch = [_replace("tags", [tag for tag in tags if tag != MARK])]
        if protected:
            patch.append(_replace("protected", True))
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._patch(image_id, patch)
                return
            except (TransferError, BackendError) as error:
                if attempt == _ATTEMPTS or not error.retryable:
                    raise
                LOG.warning("changing image %s again after: %s", image_id, error)
                time.sleep(attempt)

    def _keep(self, image_id: str, image: Image, error: ImageBrokerError) -> None:
        """Keep the record without data, as the caller wants, unless it is active.

        :raises UploadFailed: it is kept.
        """
        if status_after_break(self._api, self._identity, image_id) != "queued":
            return
        try:
            for _ in range(_ATTEMPTS):
                self._finish(image_id, image.tags or ())
                # If Glance was still busy with the failed request, it restores the old tags.
                status_after_break(self._api, self._identity, image_id)
                if MARK not in (self._image(image_id, None).tags or ()):
                    break
        except ImageBrokerError as failure:
            LOG.warning("the kept record %s still has the tag %s: %s", image_id, MARK, failure)
        raise UploadFailed(
            f"{error}; the record {image_id} is kept, without data",
            hint=f"update image {image_id} with the data, or delete it",
            image_id=image_id,
        ) from error

    def _undo(self, image_id: str, error: BaseException) -> NoReturn:
        try:
            self._remove(image_id)
        except ImageNotFound:
            raise error from error.__cause__
        except ImageBrokerError as failure:
            LOG.error("cannot remove the record of image %s: %s", image_id, failure)
            if not isinstance(error, Exception):
                raise error from failure
            raise UploadFailed(
                f"{error}; and the record could not be removed: {failure}",
                hint=f"delete image {image_id}",
                image_id=image_id,
            ) from error
        raise error from error.__cause__

    def _remove(self, image_id: str) -> None:
        self._api.ask(
            self._identity,
            lambda server: server.client.images.delete(image_id),
            what=f"image {image_id}",
        )

    def _appears(self, image_id: str) -> bool:
        """Whether a record exists whose answer was lost. Glance may still be creating it."""
        ends = time.monotonic() + min(_LATE, self._api.limits.stall_timeout)
        pause = 0.1
        while not self._exists(image_id):
            if time.monotonic() > ends:
                return False
            time.sleep(pause)
            pause *= 2
        return True

    def _exists(self, image_id: str) -> bool:
        try:
            self._api.show(self._identity, image_id)
        except ImageNotFound:
            return False
        return True

    def _protected(self, image_id: str) -> str | None:
        """The ref of an image that is protected."""
        try:
            image = self._image(image_id, None)
        except ImageBrokerError:
            return None
        return image.ref if image.protected else None

    def _image(self, image_id: str, members: Iterable[str] | None) -> Image:
        raw, url = self._api.show(self._identity, image_id)
        image = self._image_of(raw, url)
        return image if members is None else dataclasses.replace(image, members=tuple(members))

    def _patch(self, image_id: str, patch: list[dict[str, Any]]) -> None:
        self._api.patch(self._identity, image_id, patch)

    def _set_members(self, image_id: str, wanted: Iterable[str]) -> None:
        def ask(call: Callable[[image_members.Controller], T], *, reads: bool = False) -> T:
            return self._api.ask(
                self._identity, lambda server: call(server.lists.image_members),
                what=f"members of image {image_id}", reads=reads,
            )  # fmt: skip

        listed = ask(lambda members: [dict(each) for each in members.list(image_id)], reads=True)
        present = _texts_in(listed, "member_id")
        for member in wanted:
            if member not in present:
                ask(lambda members, new=member: members.create(image_id, new))  # type: ignore[misc]
        for member in sorted(present - set(wanted)):
            with contextlib.suppress(ImageNotFound):
                old = quote(member, safe="")
                ask(lambda members, old=old: members.delete(image_id, old))  # type: ignore[misc]

    def _add_locations(
        self,
        image_id: str,
        locations: Iterable[Any],
        known: Mapping[str, Any] | None = None,
        checksums: Mapping[str, str] | None = None,
    ) -> None:
        """Register data that is stored elsewhere: with the older call, or else the newer one."""
        present = _texts_in((known or {}).get("locations"), "url")
        for location in map(_location, locations):
            if location.url not in present:
                self._add_location(image_id, location, _validation(checksums or {}))

    def _add_location(self, image_id: str, location: Location, proof: dict[str, str]) -> None:
        """First with the call that is synchronous, if the service allows it."""
        document: dict[str, Any] = {"url": location.url}
        if proof:
            document["validation_data"] = proof
        value = {"metadata": dict(location.metadata), **document}
        try:
            self._patch(image_id, [{"op": "add", "path": "/locations/-", "value": value}])
            return
        except NotAuthorized as error:
            if getattr(error, "status", None) != 403:
                raise
        self._api.ask(
            self._identity,
            # glanceclient's own call would ask for the versions of the service first.
            lambda server: server.client.http_client.post(
                f"/v2/images/{image_id}/locations", data=document
            )[1],
            what=f"location of image {image_id}",
        )
        status = wait_for_status(self._api, self._identity, image_id, lambda now: now == "active")
        if status != "active":
            raise UploadFailed(
                f"the location of image {image_id} was not accepted: the image is {status}",
                hint="check that the image service can read the location",
            )


def _texts_in(entries: Any, name: str) -> set[str]:
    """The values of `name` in a list of a server's."""
    listed = entries if isinstance(entries, list) else []
    values = (each.get(name) for each in listed if isinstance(each, dict))
    return {value for value in values if isinstance(value, str)}


def _location(each: Any) -> Location:
    if isinstance(each, Location):
        return each
    if isinstance(each, str):
        return Location(each)
    if isinstance(each, Mapping) and isinstance(each.get("url"), str):
        return Location(each["url"], each.get("metadata") or {})
    raise InvalidImageRef(
        f"image_info: {type(each).__name__} is not a location", hint="pass the URL as text"
    )


def _validation(checksums: Mapping[str, str]) -> dict[str, str]:
    for algorithm in ("sha512", "sha256"):
        if algorithm in checksums:
            return {"os_hash_algo": algorithm, "os_hash_value": checksums[algorithm]}
    return {}


def _document(image: Image, *, later: bool) -> dict[str, Any]:
    """The body of the first request. With data, `protected` is set `later`: see `_fill`."""
    document: dict[str, Any] = {}
    for field in _PLAIN:
        value = getattr(image, field)
        if value is not None and not (field == "protected" and later):
            document[API_NAMES.get(field, field)] = list(value) if field == "tags" else value
    if later and "disk_format" not in document:
        raise InvalidImageRef(
            "image_info: Glance requires a disk_format for data",
            hint="set disk_format: --disk-format raw, qcow2, ...",
        )
    if "disk_format" in document:
        document.setdefault("container_format", "bare")
    _refuse_internal(image.properties)
    return {**api_properties(image.properties), **document}


def _patch(
    raw: Mapping[str, Any], changes: Mapping[str, Any], purge_props: bool, *, with_data: bool
) -> list[dict[str, Any]]:
    """The JSON patch operations for `changes` to the record `raw`."""
    patch: list[dict[str, Any]] = []
    for field, value in changes.items():
        if field in _PLAIN:
            name = API_NAMES.get(field, field)
            wanted = _PLAIN[field] if value is None else value
            wanted = list(wanted) if field == "tags" else wanted
            if raw.get(name) != wanted:
                patch.append(_replace(name, wanted))
        elif field in ("size", "checksums") and not with_data:
            raise UnsupportedOperation(
                f"Glance does not allow setting the {field} of an image",
                hint="omit it: Glance computes it from the data",
            )
    return patch + _property_patch(raw, changes.get("properties") or {}, purge_props)


def _property_patch(
    raw: Mapping[str, Any], properties: Mapping[str, Any], purge_props: bool
) -> list[dict[str, Any]]:
    _refuse_internal(properties)
    stored = api_properties(properties)
    own = {name for name in raw if is_own(name)}
    removed = {name for name, value in properties.items() if value is None} & own
    if purge_props:
        removed |= own - set(stored)
    added = [
        {"op": "add", "path": _pointer(name), "value": value}
        for name, value in stored.items()
        if raw.get(name) != value
    ]
    return [*added, *({"op": "remove", "path": _pointer(name)} for name in sorted(removed))]


def _refuse_internal(properties: Mapping[str, Any]) -> None:
    for name in properties:
        if name.startswith(INTERNAL):
            raise PolicyViolation(
                f"the property {name!r} is reserved by Glance", hint="use another name"
            )


def _replace(name: str, value: Any) -> dict[str, Any]:
    return {"op": "replace", "path": _pointer(name), "value": value}


def _pointer(name: str) -> str:
    return "/" + name.replace("~", "~0").replace("/", "~1")
