"""What the answers of registries mean."""

from __future__ import annotations

import json

from imagebroker.plugin import (
    BackendError,
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

#: Bytes of an error's body that are looked at.
_MAX_MESSAGE = 64 * 1024
_NOT_FOUND = "check the repository and the tag"

#: Codes of the distribution specification that say more than the status.
_BY_CODE: dict[str, tuple[type[ImageBrokerError], str]] = {
    "BLOB_UNKNOWN": (ImageNotFound, "the registry has lost a part of the image: push it again"),
    "MANIFEST_UNKNOWN": (ImageNotFound, _NOT_FOUND),
    "NAME_UNKNOWN": (ImageNotFound, "check the name of the repository"),
    "NAME_INVALID": (InvalidImageRef, "check the name of the repository"),
    "TAG_INVALID": (InvalidImageRef, "check the tag"),
    "DIGEST_INVALID": (TransferError, "the data was damaged on its way; try again"),
    "SIZE_INVALID": (TransferError, "the data was damaged on its way; try again"),
    "BLOB_UPLOAD_INVALID": (TransferError, "try again"),
    "BLOB_UPLOAD_UNKNOWN": (TransferError, "the registry has given up the upload; try again"),
    "UNSUPPORTED": (UnsupportedOperation, "the registry does not support this"),
}
_BY_STATUS: dict[int, tuple[type[ImageBrokerError], str]] = {
    404: (ImageNotFound, _NOT_FOUND),
    405: (UnsupportedOperation, "the registry does not support this"),
    413: (QuotaExceeded, "the registry takes nothing of this size"),
    507: (QuotaExceeded, "the registry's disks are full"),
}


def error_of(subject: object, answer: http.Answer, hint: str = "") -> ImageBrokerError:
    """The error that an answer is; it is read and closed.

    :param hint: what to do if it is about who we are.
    """
    status = answer.head.status
    code, said = _told(answer)
    shown = code or f"{status} {printable(answer.head.reason, 80)}".rstrip()
    message = f"{subject}: the registry answers {shown}" + (f": {said}" if said else "")
    if status in (401, 403) or code in ("UNAUTHORIZED", "DENIED"):
        return NotAuthorized(message, hint=hint or "ask the owner of the registry for access")
    if status == 429 or (status >= 500 and status not in _BY_STATUS):
        later = http.retry_after(answer.head)
        return BackendError(message, hint="try again later", retryable=True, retry_after=later)
    kind, what = _BY_CODE.get(code) or _BY_STATUS.get(status) or (BackendError, "")
    if kind is BackendError:
        return BackendError(message, hint="the registry refuses the request", retryable=False)
    return kind(message, hint=what)


def _told(answer: http.Answer) -> tuple[str, str]:
    """Code and text of the first error in the body; empty if it has none."""
    try:
        body = answer.read(_MAX_MESSAGE, seconds=10, whole=False)
        first = json.loads(body)["errors"][0]
        return printable(str(first.get("code") or ""), 60), printable(
            str(first.get("message") or ""), 200
        )
    except (ImageBrokerError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return "", ""
