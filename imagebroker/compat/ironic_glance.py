"""Ironic's service for images of Glance, on a `Broker`."""

from __future__ import annotations

import io
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from imagebroker.compat.errors import IRONIC_GLANCE
from imagebroker.compat.ironic_checksums import demanded
from imagebroker.compat.ironic_hrefs import Surroundings, naive
from imagebroker.compat.records import decoded, digest_of
from imagebroker.compat.streams import writable
from imagebroker.exceptions import InvalidImageRef, NotReady, TransferError
from imagebroker.model.image import ACTIVE

if TYPE_CHECKING:
    from imagebroker.model.image import Image

#: Formats of Glance that are not disks: kernels, ramdisks, and what refers to both.
_NO_DISKS = frozenset({"aki", "ari", "ami"})
_NO_DATA = {**IRONIC_GLANCE, NotReady: "ImageDownloadFailed", TransferError: "ImageDownloadFailed"}


@dataclass(frozen=True)
class ListedMember:
    """What Ironic reads of a member."""

    member_id: str
    status: str | None


class GlanceService:
    """Images by their UUID, or `glance://UUID`.

    A caller with a token is the caller at Glance; without one, it is the conductor itself, as in
    Ironic, whose own rule then says who may use which image.
    """

    _in: ClassVar[Surroundings]

    def __init__(self, client: Any = None, context: Any = None) -> None:
        """`client` is ignored."""
        self.client, self.context = client, context
        self._verified: str | None = None

    @property
    def is_auth_set_needed(self) -> bool:
        return False

    @property
    def transfer_verified_checksum(self) -> str | None:
        """`algorithm:digest` of the last download, if the caller gave it and it was right."""
        return self._verified

    def show(self, image_href: Any) -> dict[str, Any]:
        """The record.

        As in Ironic: its keys and types, all properties in `properties`; times are naive, in UTC;
        an image that is not active is ImageUnacceptable; one that the conductor may not use is
        ImageNotFound.
        """
        image_id = self._id(image_href)
        with self._in.errors.translated(IRONIC_GLANCE, image_id):
            return record_of(self._image(image_id))

    def download(
        self,
        image_href: Any,
        data: Any = None,
        checksum: str | None = None,
        checksum_algo: str | None = None,
    ) -> bytes | None:
        """The bytes, into the file object `data`; without one they are returned.

        As in Ironic, an image without data is ImageDownloadFailed. Different on purpose: what
        Glance knows of the content (its checksum) must hold, too; a cut transfer is resumed.
        """
        self._verified = None
        image_id = self._id(image_href)
        wanted = demanded(checksum, checksum_algo, self._in, image_id)
        with self._in.errors.translated(wanted.table(_NO_DATA), image_id):
            image = self._in.broker.get(self._identity, self._ref(image_id))
            target = io.BytesIO() if data is None else writable(data)
            self._in.broker.download(
                self._identity, self._ref(image_id), target, checksum=wanted.checksum,
                check_format=image.disk_format not in _NO_DISKS,
            )  # fmt: skip
        self._verified = wanted.verified
        return target.getvalue() if data is None else None

    def member_list(self, image_id: str) -> list[ListedMember]:
        """The projects that an image is shared with."""
        with self._in.errors.translated(IRONIC_GLANCE, image_id):
            found = self._in.broker.members(self._identity, self._ref(image_id))
            return [ListedMember(each.project, each.status) for each in found]

    @property
    def _identity(self) -> Any:
        """The caller's context, or None for the conductor's own identity."""
        return self.context if getattr(self.context, "auth_token", None) else None

    def _image(self, image_id: str) -> Image:
        image = self._in.broker.get(self._identity, self._ref(image_id), show_deleted=False)
        if image.status not in (None, ACTIVE):
            raise NotReady("The image is required to be in an active state.")
        if self._in.available is not None and not self._in.available(self.context, image):
            from imagebroker.exceptions import ImageNotFound

            raise ImageNotFound(f"image {image_id} is not for the project of the conductor")
        return image

    def _ref(self, image_id: str) -> str:
        return image_id

    def _id(self, href: Any) -> str:
        """:raises InvalidImageRef: Ironic's, for what is no UUID and no `glance://UUID`."""
        text = str(href)
        parts = urlsplit(text)
        last = text.rpartition("/")[2] if parts.scheme == "glance" else text
        try:
            return str(uuid.UUID(last))
        except ValueError:
            with self._in.errors.translated({InvalidImageRef: "InvalidImageRef"}, text):
                raise InvalidImageRef(f"{text!r:.160} is not the id of an image") from None


def record_of(image: Image) -> dict[str, Any]:
    """The dict that Ironic's service for Glance returns."""
    algorithm, digest = digest_of(image)
    return {
        "id": image.id,
        "name": image.name,
        "status": image.status or ACTIVE,
        "visibility": image.visibility,
        "owner": image.owner,
        "protected": bool(image.protected),
        "tags": list(image.tags or ()),
        "size": image.size,
        "disk_format": image.disk_format,
        "container_format": image.container_format,
        "min_disk": image.min_disk or 0,
        "min_ram": image.min_ram or 0,
        "checksum": image.checksums.get("md5"),
        "os_hash_algo": algorithm,
        "os_hash_value": digest,
        "created_at": naive(image.created_at),
        "updated_at": naive(image.updated_at),
        "deleted_at": naive(image.deleted_at),
        "deleted": None,
        "file": f"/v2/images/{image.id}/file",
        "schema": "/v2/schemas/image",
        "properties": decoded(image),
    }
