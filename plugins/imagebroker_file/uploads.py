"""Uploads to a store: complete or not at all; those of killed processes are undone."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Callable

from imagebroker.plugin import (
    Image,
    ImageBrokerError,
    ImageData,
    InvalidImageRef,
    UploadFailed,
    VerificationError,
    forks,
)
from imagebroker_file import rows
from imagebroker_file.data_files import DataFiles, Upload
from imagebroker_file.records import Records
from imagebroker_file.rules import active_image

LOG = logging.getLogger(__name__)

_UPLOADS = "SELECT id, upload, upload_undo FROM images WHERE upload IS NOT NULL"


class Uploads:
    """The uploads of one store. A record names its upload, whose file is locked while it runs."""

    def __init__(self, records: Records, data_files: DataFiles) -> None:
        self._records = records
        self._files = data_files

    def store(
        self,
        image: Image,
        upload: Upload,
        data: ImageData,
        claims: Image,
        change: Callable[[Image], Image],
    ) -> Image:
        """Store the data and make the record active, or undo everything."""
        image_id, process = str(image.id), forks.Process()
        try:
            data.hash_with(*claims.checksums)
            size = upload.store(data)
            _check_stored(image_id, claims, data, size)
            with self._records.writing(image_id) as db:
                row = rows.find(db, image_id)
                if row is None or row["upload"] != upload.token:
                    raise UploadFailed(
                        f"image {image_id} was deleted during its upload",
                        hint="create it again, with another id",
                    )
                stored = change(self._records.load(db, image_id))
                rows.write(db, active_image(stored, size, data.checksums))
                rows.mark(db, image_id, upload=None, upload_undo=None)
                self._files.publish(upload, image_id)
                return self._records.load(db, image_id)
        except BaseException as error:
            if not process.is_current:
                raise  # the parent still works on it
            self._abandon(image_id, upload, error)
            if data.keep_record and isinstance(error, ImageBrokerError):
                raise UploadFailed(
                    f"{error}; the record {image_id} is kept, without data",
                    hint=f"update image {image_id} with the data, or delete it",
                    image_id=image_id,
                ) from error
            raise

    def _abandon(self, image_id: str, upload: Upload, error: BaseException) -> None:
        try:
            with self._records.writing(image_id) as db:
                row = rows.find(db, image_id)
                if row is not None and row["upload"] == upload.token:
                    self._undo(db, row)
        except ImageBrokerError as trouble:
            LOG.error("cannot remove the unfinished image %s yet: %s", image_id, trouble)
            if isinstance(error, UploadFailed):
                error.image_id = image_id

    def _undo(self, db: sqlite3.Connection, row: sqlite3.Row) -> None:
        """Undo an upload that was not completed."""
        self._files.remove(row["id"])
        if row["upload_undo"] is None:
            rows.remove(db, row["id"])
        else:
            rows.mark(db, row["id"], status=row["upload_undo"], upload=None, upload_undo=None)

    def sweep(self) -> None:
        """Undo uploads whose process has ended."""
        self._files.sweep()
        with self._records.database.reading() as db:
            uploads = db.execute(_UPLOADS).fetchall()
            deleted = db.execute("SELECT id FROM images WHERE purge = 1").fetchall()
        if not all(self._files.is_live(row["upload"]) for row in uploads):
            with self._records.database.writing() as db:
                # Read again, within a write transaction: uploads may have finished meanwhile.
                for row in db.execute(_UPLOADS).fetchall():
                    if not self._files.is_live(row["upload"]):
                        LOG.warning("removed the unfinished upload of image %s", row["id"])
                        self._undo(db, row)
        for row in deleted:
            self.purge(row["id"])

    def purge(self, image_id: str) -> None:
        """Remove the data of a deleted image."""
        self._files.remove(image_id)
        with self._records.writing(image_id) as db:
            rows.mark(db, image_id, purge=0)


def check_claims(claims: Image, data: ImageData) -> None:
    """Refuse contradictions before the first byte.

    :raises InvalidImageRef, UploadFailed: the size or a checksum cannot match.
    """
    if claims.size is not None and data.size is not None and claims.size != data.size:
        raise InvalidImageRef(
            f"the size is given as {claims.size} bytes, but the data has {data.size}",
            hint="omit the size",
        )
    if data.size == 0 and claims.size != 0:
        raise _empty()
    for algorithm in claims.checksums:
        if algorithm not in hashlib.algorithms_available or algorithm.startswith("shake"):
            raise InvalidImageRef(f"unknown checksum algorithm {algorithm!r}")


def _check_stored(image_id: str, claims: Image, data: ImageData, size: int) -> None:
    """:raises UploadFailed, VerificationError: the data is not what was announced."""
    if not data.complete:
        raise UploadFailed(f"the data of image {image_id} ended early, after {size} bytes")
    if claims.size is not None and claims.size != size:
        raise UploadFailed(
            f"the data of image {image_id} has {size} bytes, not the announced {claims.size}",
            hint="correct the size, or omit it",
        )
    if size == 0 and claims.size != 0:
        raise _empty()
    for algorithm, digest in claims.checksums.items():
        if data.checksums[algorithm] != str(digest).lower():
            raise VerificationError(
                f"the data of image {image_id} has the {algorithm} {data.checksums[algorithm]}, "
                f"not the announced {digest}",
                hint="check the file and the checksum: the data is damaged, or of another image",
            )


def _empty() -> UploadFailed:
    return UploadFailed(
        "the data is empty", hint="to store an empty image, pass the size 0: --size 0"
    )
