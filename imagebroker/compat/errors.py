"""Translates our errors into the calling service's exceptions, found by name in its module."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from imagebroker.exceptions import (
    BackendError,
    ChecksumMismatch,
    ChecksumMissing,
    Conflict,
    DestinationError,
    ImageBrokerError,
    ImageChanged,
    ImageNotFound,
    InvalidImageRef,
    NotAuthorized,
    NotReady,
    PolicyViolation,
    QuotaExceeded,
    SchemeNotEnabled,
    SignatureError,
    TransferError,
    UnsupportedOperation,
    UploadFailed,
    VerificationError,
)
from imagebroker.redaction import redact

#: For each of our errors the exception that callers act upon, Nova's first. The first that fits
#: counts; what is in no table (a wrong configuration) stays as it is.
Table = dict[type[ImageBrokerError], str]

#: Where the image is named by the caller: `get`, `download`.
OF_IMAGE: Table = {
    ImageNotFound: "ImageNotFound",
    NotAuthorized: "ImageNotAuthorized",
    QuotaExceeded: "ImageQuotaExceeded",
    InvalidImageRef: "ImageBadRequest",
    UnsupportedOperation: "ImageBadRequest",
    Conflict: "ImageBadRequest",
    # ImageUnacceptable ends the building of an instance; with others Nova tries another host.
    VerificationError: "ImageUnacceptable",
    PolicyViolation: "ImageUnacceptable",
    SchemeNotEnabled: "ImageUnacceptable",
    NotReady: "ImageUnacceptable",
    ImageChanged: "GlanceConnectionFailed",
    TransferError: "GlanceConnectionFailed",
    BackendError: "GlanceConnectionFailed",
}
#: A protected image is PolicyViolation; Glance says 403.
OF_UPDATE: Table = OF_IMAGE | {PolicyViolation: "ImageNotAuthorized"}
OF_DELETE: Table = OF_UPDATE | {Conflict: "ImageDeleteConflict"}
#: `copy_image_to_store`. ImageBadRequest makes libvirt wait for somebody else's copy.
OF_IMPORT: Table = {
    UploadFailed: "ImageImportImpossible",  # before TransferError, which it is, too
    **OF_UPDATE,
    Conflict: "ImageImportImpossible",
    UnsupportedOperation: "ImageImportImpossible",
}
#: Where there is no image yet, or many: `get_all`, `create`.
OF_SERVICE: Table = OF_IMAGE | {
    ImageNotFound: "NotFound",
    NotAuthorized: "Forbidden",
    PolicyViolation: "Forbidden",
    InvalidImageRef: "Invalid",
    UnsupportedOperation: "Invalid",
    Conflict: "Invalid",
}
#: Cinder, where the caller names the image. ImageUnacceptable ends the creation of a volume.
CINDER_IMAGE: Table = {
    ImageNotFound: "ImageNotFound",
    NotAuthorized: "ImageNotAuthorized",
    QuotaExceeded: "ImageLimitExceeded",
    InvalidImageRef: "Invalid",
    UnsupportedOperation: "Invalid",
    Conflict: "Invalid",
    SignatureError: "ImageSignatureVerificationException",
    VerificationError: "ImageUnacceptable",
    PolicyViolation: "ImageUnacceptable",
    SchemeNotEnabled: "ImageUnacceptable",
    NotReady: "ImageDownloadFailed",
    ImageChanged: "GlanceConnectionFailed",
    TransferError: "GlanceConnectionFailed",
    BackendError: "GlanceConnectionFailed",
}
CINDER_SERVICE: Table = CINDER_IMAGE | {
    ImageNotFound: "NotFound",
    NotAuthorized: "NotAuthorized",
    PolicyViolation: "NotAuthorized",
}
#: Ironic's web, file and registry services. DestinationError is no OSError here.
IRONIC_HREF: Table = {
    ChecksumMismatch: "ImageChecksumError",
    ChecksumMissing: "ImageChecksumError",
    DestinationError: "ImageDownloadFailed",
    InvalidImageRef: "ImageRefValidationFailed",
    ImageNotFound: "ImageRefValidationFailed",
    NotAuthorized: "ImageRefValidationFailed",
    PolicyViolation: "ImageRefValidationFailed",
    SchemeNotEnabled: "ImageRefValidationFailed",
    UnsupportedOperation: "ImageRefValidationFailed",
    ImageBrokerError: "ImageDownloadFailed",
}
#: Where only the href is looked at, everything is a failed validation.
IRONIC_VALIDATION: Table = {ImageBrokerError: "ImageRefValidationFailed"}
IRONIC_GLANCE: Table = {
    ImageNotFound: "ImageNotFound",
    NotAuthorized: "ImageNotAuthorized",
    InvalidImageRef: "Invalid",
    ChecksumMismatch: "ImageChecksumError",
    ChecksumMissing: "ImageChecksumError",
    DestinationError: "ImageDownloadFailed",
    NotReady: "ImageUnacceptable",
    VerificationError: "ImageUnacceptable",
    PolicyViolation: "ImageUnacceptable",
    SchemeNotEnabled: "ImageUnacceptable",
    ImageChanged: "GlanceConnectionFailed",
    TransferError: "GlanceConnectionFailed",
    BackendError: "GlanceConnectionFailed",
}
#: `location` in `create` and `update`: libvirt uploads the bytes instead when it gets this.
OF_LOCATION: Table = {
    InvalidImageRef: "ImageUnacceptable",
    UnsupportedOperation: "ImageUnacceptable",
}

#: Exceptions that have a text of ours only.
_PLAIN = frozenset({"Forbidden", "NotAuthorized", "NotFound", "Invalid"})
#: Those of Ironic and Cinder whose text names what the caller asked for, and the reason.
_OF_HREF = frozenset({
    "ImageDownloadFailed", "ImageRefValidationFailed", "InvalidImageRef", "OciImageNotSpecific",
    "ImageServiceAuthenticationRequired", "ImageSignatureVerificationException",
})  # fmt: skip

_IMAGE_URL = re.compile(r"(?i)/v2/images/([0-9a-f-]{36})(?:/file)?\Z")


class DestinationOSError(DestinationError, OSError):
    """A destination that cannot take the bytes, which Nova's callers know as an OSError."""


class Errors:
    """Raises the exceptions of one service."""

    def __init__(self, module: object | None) -> None:
        """`module`: has the exceptions by Nova's names; what it does not have is ours."""
        self._module = module

    @contextmanager
    def translated(self, table: Table, identifier: object = "") -> Iterator[None]:
        """Our errors become the service's, with ours as their cause.

        :param identifier: the image, as the caller named it.
        """
        try:
            yield
        except ImageBrokerError as error:
            raised = self.of(error, table, identifier)
            if raised is error:
                raise
            raise raised from error

    def of(self, error: ImageBrokerError, table: Table, identifier: object = "") -> Exception:
        """What to raise for `error`; `error` itself where the service has no word for it."""
        if isinstance(error, DestinationError) and DestinationError not in table:
            failed = DestinationOSError(str(error))
            failed.__dict__.update(error.__dict__)  # errno, hint, notes
            return failed
        for kind, name in table.items():
            if isinstance(error, kind):
                return self.named(name, error, identifier)
        return error

    def named(self, name: str, error: ImageBrokerError, identifier: object = "") -> Exception:
        """The service's exception `name`; `error` where it has none."""
        cls = getattr(self._module, name, None)
        if isinstance(cls, type) and issubclass(cls, Exception):
            return _made(cls, name, shown(identifier), error)
        return error


def shown(identifier: object) -> str:
    """The image as Nova names it: the id, for URLs that end in one, too."""
    match = _IMAGE_URL.search(str(identifier))
    return match[1] if match else redact(identifier, 255)


def _made(cls: type[Exception], name: str, image_id: str, error: ImageBrokerError) -> Exception:
    reason = str(error)
    values: dict[str, Any] = {"image_id": image_id}
    if name in _PLAIN:
        values = {}
    elif name == "ImageBadRequest":
        values["response"] = reason
    elif name in ("ImageUnacceptable", "ImageImportImpossible"):
        values["reason"] = reason
    elif name == "ImageDeleteConflict":
        values = {"reason": reason}
    elif name == "GlanceConnectionFailed":
        server = "behind imagebroker"  # by the name that each service has for it
        values = {"server": server, "endpoint": server, "reason": reason}
    elif name in _OF_HREF:
        values = {"image_href": image_id, "image_ref": image_id, "reason": reason}
    try:
        raised = cls(**values) if values else cls(reason)
    except TypeError:  # a service whose exceptions take only a text
        raised = cls(reason)
    # Notes are for the log: texts of exceptions are shown to users.
    if error.hint:
        raised.add_note(error.hint)
    if error.request_id is not None:
        raised.add_note(f"the image service's id of the request: {error.request_id}")
    raised.request_id = error.request_id  # type: ignore[attr-defined]
    return raised
