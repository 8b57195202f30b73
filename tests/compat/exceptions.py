"""The exceptions of a service, by the names and with the texts that Nova gives them."""

from __future__ import annotations

from typing import Any, ClassVar


class ServiceError(Exception):
    msg_fmt: ClassVar[str] = ""

    def __init__(self, message: str | None = None, **kwargs: Any) -> None:
        self.kwargs = kwargs
        super().__init__(message or self.msg_fmt % kwargs)


class NotFound(ServiceError):
    msg_fmt = "Resource could not be found."


class Forbidden(ServiceError):
    msg_fmt = "Forbidden"


class Invalid(ServiceError):
    msg_fmt = "Bad Request - Invalid Parameters"


class ImageNotFound(NotFound):
    msg_fmt = "Image %(image_id)s could not be found."


class ImageNotAuthorized(ServiceError):
    msg_fmt = "Not authorized for image %(image_id)s."


class ImageBadRequest(Invalid):
    msg_fmt = "Request of image %(image_id)s got BadRequest response: %(response)s"


class ImageUnacceptable(Invalid):
    msg_fmt = "Image %(image_id)s is unacceptable: %(reason)s"


class ImageImportImpossible(Invalid):
    msg_fmt = "Import of image %(image_id)s refused: %(reason)s"


class ImageQuotaExceeded(ServiceError):
    msg_fmt = "Quota exceeded or out of space for image %(image_id)s in the image service."


class ImageDeleteConflict(ServiceError):
    msg_fmt = "Conflict deleting image. Reason: %(reason)s."


class GlanceConnectionFailed(ServiceError):
    msg_fmt = "Connection to glance host %(server)s failed: %(reason)s"
