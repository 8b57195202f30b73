"""The state of an open image: its bytes, and whether it still has them."""

from __future__ import annotations

import struct
from typing import Any

from imagebroker.plugin import ImageChanged, ImageNotFound
from imagebroker_rbd.names import Place
from imagebroker_rbd.operations import OpenImage

#: `SnapshotInfo` begins with two bytes of version and four of its size.
_HEAD = 6


class ImageState:
    """What an open image is: a snapshot, which never changes, or the image as it is now.

    Where the objects of an image are gone, Ceph reads zeros. So whoever reads asks after each read
    whether the image is still there (`confirm`): it is marked as removed before its objects go.
    """

    def __init__(self, opened: OpenImage, place: Place, subject: str) -> None:
        self._opened, self._place, self._subject = opened, place, subject
        self._doing = f"cannot read {subject}"
        self._id = str(opened.call(self._doing, "id"))
        self.snapshot_id = self._snapshot_id()
        self._mark = self._asked()

    def version(self, fsid: str) -> str | None:
        """The same for the same bytes, in all clusters; None if the bytes may change."""
        if self.snapshot_id is None:
            return None
        return f"{fsid}/{self._opened.pool_id}/{self._id}/{self.snapshot_id}"

    def confirm(self) -> None:
        """:raises ImageChanged: the image or snapshot was removed after it was opened."""
        try:
            found = self._asked()
        except ImageNotFound as error:
            raise self._removed() from error
        if found != self._mark:
            raise self._removed()

    def _removed(self) -> ImageChanged:
        return ImageChanged(f"{self._subject} was removed while it was read")

    def _snapshot_id(self) -> int | None:
        if self._place.snapshot is None:
            return None
        for each in self.snapshots():
            if each["name"] == self._place.snapshot:
                return int(each["id"])
        raise ImageNotFound(f"{self._subject}: there is no such snapshot")

    def snapshots(self) -> list[dict[str, Any]]:
        """Those that a user made."""
        return user_snapshots(self._opened, self._doing)

    def _asked(self) -> bytes:
        """What the cluster says at this moment; the same as long as the image is there."""
        if self.snapshot_id is None:
            return self._opened.content(self._doing, f"rbd_id.{self._place.image}")
        answer = self._opened.ask(
            self._doing, f"rbd_header.{self._id}", "snapshot_get",
            struct.pack("<Q", self.snapshot_id),
        )  # fmt: skip
        return _lasting(answer)


def _lasting(info: bytes) -> bytes:
    """Of an encoded `SnapshotInfo`: its id, namespace and name. The number of clones changes."""
    end = _HEAD + 8
    end += _HEAD + struct.unpack_from("<I", info, end + 2)[0]
    end += 4 + struct.unpack_from("<I", info, end)[0]
    return info[_HEAD:end]


def user_snapshots(opened: OpenImage, doing: str) -> list[dict[str, Any]]:
    """The snapshots that a user made; others belong to mirrors, groups and the trash."""
    return [each for each in opened.listed(doing, "list_snaps") if not each.get("namespace")]
