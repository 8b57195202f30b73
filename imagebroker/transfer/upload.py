"""An upload: what the backend says it has stored is compared with what was sent."""

from __future__ import annotations

from collections.abc import Callable

from imagebroker.exceptions import ImageBrokerError, UploadFailed
from imagebroker.model.image import Image
from imagebroker.model.upload_data import ImageData


def uploaded(data: ImageData, send: Callable[[], Image]) -> Image:
    """The record that `send` answers with, compared with what was sent.

    :raises UploadFailed: they differ, or the data could not be read.
    :raises VerificationError: the data is not an acceptable image.
    """
    try:
        image = send()
    except ImageBrokerError as error:
        if data.failure is not None and error is not data.failure:
            vars(data.failure)["image_id"] = getattr(error, "image_id", None)
            raise data.failure from error
        raise
    wrong = [
        f"{name} {image.checksums[name]} instead of {digest}"
        for name, digest in data.checksums.items()
        if image.checksums.get(name, digest) != digest
    ]
    if image.size not in (None, data.sent):
        wrong.append(f"{image.size} bytes instead of {data.sent}")
    if wrong or not data.complete:
        raise UploadFailed(
            f"{image.ref} was stored with {'; '.join(wrong) or 'part of the data'}",
            hint="delete the image and create it again",
            image_id=image.id,
        )
    return image
