"""What Swift's error responses mean."""

from __future__ import annotations

from imagebroker.plugin import (
    BackendError,
    Conflict,
    ImageBrokerError,
    ImageNotFound,
    InvalidImageRef,
    NotAuthorized,
    QuotaExceeded,
    TransferError,
    UnsupportedOperation,
    http,
    printable,
)

_LOGIN = "check the login of this backend, and what the container's ACLs allow"
_BY_STATUS: dict[int, tuple[type[ImageBrokerError], str]] = {
    401: (NotAuthorized, _LOGIN),
    403: (NotAuthorized, _LOGIN),
    404: (ImageNotFound, "check the container and the object, and storage_url"),
    405: (UnsupportedOperation, "the server does not support this"),
    409: (Conflict, "try again"),
    411: (BackendError, "the server does not speak this version of Swift"),
    412: (Conflict, "choose another name, or delete it"),
    413: (QuotaExceeded, "delete something, raise the quota, or set a smaller segment_size"),
    416: (BackendError, "the object may have changed; try again"),
    501: (UnsupportedOperation, "the server does not support this"),
    507: (QuotaExceeded, "the server's disks are full"),
}
#: What passes by itself: the server waited for us, or is asked too often (498 is Swift's own).
_PASSING = (408, 429, 498, 499)


def error_of(what: object, head: http.Head, body: bytes) -> ImageBrokerError:
    """The error for an answer that is one; `what` the request was about."""
    status = head.status
    said = _sentence(head, body)
    message = f"{what}: the server answers {status} {printable(head.reason, 60)}".rstrip()
    message += f": {said}" if said else ""
    if status == 422:
        return TransferError(
            f"{message}: other bytes arrived than were sent", hint="check the network; try again"
        )
    if status == 400 and b"etadata" in body:
        return InvalidImageRef(message, hint="use fewer or shorter properties and tags")
    kind, hint = _BY_STATUS.get(status, (BackendError, ""))
    if kind is not BackendError:
        return kind(message, hint=hint, status=status)
    if status >= 500 or status in _PASSING:
        return BackendError(
            message, hint="try again later", retryable=True, retry_after=http.retry_after(head)
        )
    if 300 <= status < 400:
        hint = "set auth_url or storage_url to where it leads"
    return BackendError(message, hint=hint, retryable=False)


def _sentence(head: http.Head, body: bytes) -> str:
    """What the server says beside the status, unless it is a page."""
    kind = (head.get("content-type") or "").partition(";")[0].strip().lower()
    if kind != "text/plain":
        return ""
    return printable(body[:400].decode("utf-8", "replace").strip(), 200)
