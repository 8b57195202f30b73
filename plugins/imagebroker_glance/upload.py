"""Uploads the data of an image; data that cannot be rewound is never sent twice."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from imagebroker.plugin import (
    BackendError,
    Conflict,
    Gone,
    ImageBrokerError,
    ImageData,
    NotAuthorized,
    TransferError,
    UploadFailed,
)
from imagebroker_glance.client import GlanceApi, Server
from imagebroker_glance.identity import Identity

LOG = logging.getLogger(__name__)

#: Attempts to send data that can be rewound.
ATTEMPTS = 3
#: Seconds for which a status must not change before it counts.
_SETTLING = 0.5
_BETWEEN = ("saving", "uploading", "importing")


def send_data(
    api: GlanceApi,
    identity: Identity,
    image_id: str,
    data: ImageData,
    declared: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Upload the data of a queued image; returns its record, checked against what was sent.

    :param declared: digests of the data, according to the caller.

    :raises UploadFailed: the data is not stored as it was sent, or its source failed.
    :raises QuotaExceeded, Conflict, FormatError, NotAuthorized, Gone: the service refuses it.
    """
    data.hash_with("sha512")  # Glance's default
    attempt = 1
    gives_up = float("inf")
    while True:
        try:
            _put(api, identity, image_id, data)
            break
        except NotAuthorized as error:
            # The token may have expired between the record and its data.
            again = getattr(error, "status", None) == 401 and data.rewindable
            if not again or attempt == ATTEMPTS or not identity.renew():
                raise
            attempt += 1
        except (Conflict, Gone):
            # "From saving to saving": Glance was still busy with the failed attempt.
            status = status_after_break(api, identity, image_id) if attempt > 1 else None
            if status != "queued" or time.monotonic() > gives_up:
                raise
        except (TransferError, BackendError) as error:
            if data.failure is not None:
                raise data.failure from data.failure.__cause__
            status = status_after_break(api, identity, image_id)
            if status == "active":
                break  # only the answer was lost
            again = error.retryable and data.rewindable and status == "queued"
            if not again or attempt == ATTEMPTS:
                raise _failed(image_id, str(error), error) from error
            LOG.warning("sending image %s again after: %s", image_id, error)
            attempt += 1
            gives_up = time.monotonic() + api.limits.stall_timeout
    for algorithm, digest in (declared or {}).items():
        if data.checksums.get(algorithm, digest.lower()) != digest.lower():
            raise _failed(image_id, f"its {algorithm} is not the declared one")
    return _verified(api, identity, image_id, data)


def _put(api: GlanceApi, identity: Identity, image_id: str, data: ImageData) -> None:
    """glanceclient's own `upload` sends no length: stores that must reserve space become slow."""
    headers = {"Content-Type": "application/octet-stream"}
    if data.size is not None:
        headers["x-openstack-image-size"] = str(data.size)
    if data.target.store is not None:
        headers["x-image-meta-store"] = data.target.store
    if data.target.base_image is not None:
        headers["x-openstack-base-image-ref"] = data.target.base_image

    def call(server: Server) -> None:
        server.uploads.put(
            f"/v2/images/{image_id}/file", headers=headers, data=_body(data), raise_exc=False,
            allow_reauth=False, log=False,
        )  # fmt: skip

    api.ask(identity, call, what=f"upload of image {image_id}", renews=False)


def _body(data: ImageData) -> Iterable[bytes]:
    return iter(data) if data.size is None else _Sized(data, data.size)


class _Sized:
    """Data whose size is known, as requests wants it for a Content-Length."""

    def __init__(self, data: ImageData, size: int) -> None:
        self._data, self._size = data, size

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._data)

    def __len__(self) -> int:
        return self._size

    def __bool__(self) -> bool:
        return True  # also with no bytes: requests would not look at it


def status_after_break(api: GlanceApi, identity: Identity, image_id: str) -> object:
    """The status after an upload failed. Glance may not have noticed it yet."""
    status = wait_for_status(api, identity, image_id, lambda now: now not in _BETWEEN)
    for _ in range(5):
        time.sleep(_SETTLING)
        before, status = (
            status,
            wait_for_status(api, identity, image_id, lambda now: now not in _BETWEEN),
        )
        if status == before:
            break
    return status


def wait_for_status(
    api: GlanceApi, identity: Identity, image_id: str, right: Callable[[object], bool]
) -> object:
    """The status once it is `right`, or after stall_timeout; None if it is not available."""
    ends = time.monotonic() + api.limits.stall_timeout
    pause = 0.05
    while True:
        try:
            raw, _ = api.show(identity, image_id)
        except ImageBrokerError:
            return None
        status = raw.get("status")
        if right(status) or time.monotonic() > ends:
            return status
        time.sleep(pause)
        pause = min(1.0, 2 * pause)


def _verified(api: GlanceApi, identity: Identity, image_id: str, data: ImageData) -> dict[str, Any]:
    """Check the record against what was sent."""
    raw, _ = api.show(identity, image_id)
    if raw.get("status") != "active" or not data.complete:
        raise _failed(image_id, f"it is {raw.get('status')} after its data was sent")
    if raw.get("size") != data.sent:
        raise _failed(image_id, f"{data.sent} bytes were sent, but {raw.get('size')} are stored")
    algorithm, digest = _digest(raw)
    if algorithm not in data.checksums:
        algorithm, digest = "sha256", _reread(api, identity, image_id)
    if digest != data.checksums[algorithm]:
        raise _failed(image_id, f"its {algorithm} is not that of the data sent")
    return raw


def _digest(raw: Mapping[str, Any]) -> tuple[str, str]:
    algorithm, digest = raw.get("os_hash_algo"), raw.get("os_hash_value")
    if isinstance(algorithm, str) and isinstance(digest, str):
        return algorithm, digest.lower()
    return "", ""


def _reread(api: GlanceApi, identity: Identity, image_id: str) -> str:
    """The sha256 of the stored data, if the record has no digest that was computed here."""
    hasher = hashlib.sha256()
    answer = api.data(identity, image_id, "", identity.servers())
    try:
        for piece in answer.body.blocks():
            hasher.update(piece)
    finally:
        answer.body.close()
    return hasher.hexdigest()


def _failed(image_id: str, what: str, cause: ImageBrokerError | None = None) -> UploadFailed:
    return UploadFailed(
        f"the data of image {image_id} was not stored: {what}",
        hint="upload its data again" if cause is None else cause.hint,
        retryable=False if cause is None else cause.retryable,
    )
