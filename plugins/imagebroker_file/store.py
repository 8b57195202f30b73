"""The embedded store: the verbs for images with ids. Data in files, records in SQLite.

Every change that is reported as done survives a crash: data is complete, on disk and under its
final name before the transaction that makes its record active; a deletion is committed before the
data is removed. Leftovers of a killed process are recognised by their lock, which the kernel has
released, and removed by the next upload of any process.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagebroker.plugin import (
    ACTIVE,
    BackendError,
    Conflict,
    Image,
    ImageBrokerError,
    ImageData,
    ImageNotFound,
    ImageQuery,
    InvalidImageRef,
    NotAuthorized,
    NotReady,
    PolicyViolation,
)
from imagebroker_file import rows
from imagebroker_file.data_files import DataFiles, check_regular
from imagebroker_file.database import MARKER, Database
from imagebroker_file.errors import translated
from imagebroker_file.gate import aside
from imagebroker_file.listing import After, Listing
from imagebroker_file.purge import Purge
from imagebroker_file.records import Records
from imagebroker_file.rules import Caller, changed_image, deleted_image, new_image
from imagebroker_file.source import FileSource
from imagebroker_file.uploads import Uploads, check_claims

if TYPE_CHECKING:
    from oslo_context.context import RequestContext

    Context = RequestContext | None

LOG = logging.getLogger(__name__)


class Store:
    """One store. Any number of threads, processes and instances can use the same directory."""

    def __init__(
        self,
        directory: Path,
        *,
        option: str,
        ref_of: Callable[[str], str],
        timeout: float,
        fsync: bool,
    ) -> None:
        """`timeout`: seconds to wait for other writers. `fsync`: survive power loss.

        `option`: the option that names the directory, for messages.
        """
        self.directory = directory
        self._files = DataFiles(directory, option, fsync=fsync)
        self._database = Database(
            directory / MARKER, timeout=timeout, durable=fsync, check=self._files.check
        )
        self._records = Records(self._database, directory, ref_of)
        self._uploads = Uploads(self._records, self._files)

    @property
    def is_there(self) -> bool:
        """Whether any image was ever created."""
        return self._database.exists()

    def close(self) -> None:
        self._database.close()

    def get(self, context: Context, image_id: str, *, show_deleted: bool) -> Image:
        """The record."""
        caller = Caller.of(context)
        with self._records.reading(image_id) as db:
            image = self._records.seen(db, caller, image_id)
        if image.deleted and not show_deleted:
            raise self._records.gone(image)
        return caller.shown(image)

    def open(self, context: Context, image_id: str) -> FileSource:
        """The stored data. It stays readable even if the image is deleted meanwhile."""
        image = self.get(context, image_id, show_deleted=False)
        if image.status != ACTIVE:
            raise NotReady(
                f"{image.ref} is {image.status}: it has no data yet",
                hint="wait for its upload to finish, or upload its data with update",
            )
        try:
            fd = self._files.open(image_id)
        except FileNotFoundError:
            # It may have been deleted in the meantime; then this raises.
            self.get(context, image_id, show_deleted=False)
            raise self._damaged(image, "is missing") from None
        except OSError as error:
            raise self._damaged(image, f"cannot be opened: {error.strerror}") from error
        try:
            wrong = check_regular(fd, image.size)
            if wrong is not None:
                raise self._damaged(image, wrong)
            return FileSource(fd, image)
        except BaseException:
            os.close(fd)
            raise

    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        """The images that match. Arguments are checked now, pages are read as they are needed."""
        caller = Caller.of(context)
        listing = Listing(caller, query, self._records.id_of)
        return self._pages(caller, listing, self._place(caller, listing, query.marker))

    def _place(self, caller: Caller, listing: Listing, marker: str | None) -> After | None:
        if marker is None:
            return None
        try:
            image_id = self._records.id_of(str(marker))
            return aside(partial(self._place_of, caller, listing, image_id))
        except ImageNotFound:
            raise InvalidImageRef(
                f"the marker {marker!r} is not an image", hint="pass the id of the last image seen"
            ) from None

    def _place_of(self, caller: Caller, listing: Listing, image_id: str) -> After | None:
        with self._records.reading(image_id) as db:
            self._records.seen(db, caller, image_id)
            row = rows.find(db, image_id)
            return None if row is None else listing.after(row)

    def _pages(self, caller: Caller, listing: Listing, after: After | None) -> Iterator[Image]:
        left = listing.limit
        seen = _Seen(needed=not listing.stable)
        while left is None or left > 0:
            count = listing.page_size if left is None else min(listing.page_size, left)
            try:
                page, images = aside(partial(self._page, listing, after, count))
            except FileNotFoundError:
                return
            new = [caller.shown(image) for image in images if seen.is_new(image)]
            left = None if left is None else left - len(new)
            yield from new
            if len(page) < count:
                return
            after = listing.after(page[-1])

    def _page(
        self, listing: Listing, after: After | None, count: int
    ) -> tuple[list[sqlite3.Row], list[Image]]:
        with self._database.reading() as db:
            page = listing.page(db, after, count)
            return page, rows.assemble(db, page, self._records.ref_of)

    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        """Create an image: active with data, queued without."""
        caller = Caller.of(context)
        if data is None and image.size == 0:
            data = ImageData(b"", 0)  # size 0 means an empty image, not one without data
        new = new_image(caller, image, has_data=data is not None)
        if data is None:
            self._prepare()
            return self._records.insert(new)
        check_claims(image, data)
        self._prepare()
        with self._files.receive() as upload:
            undo = "queued" if data.keep_record else None
            self._records.insert(replace(new, status="saving"), upload=upload.token, undo=undo)
            return self._uploads.store(new, upload, data, image, lambda stored: stored)

    def update(
        self,
        context: Context,
        image_id: str,
        changes: Mapping[str, Any],
        data: ImageData | None,
        purge_props: bool,
    ) -> Image:
        """Change a record, or store its data if it has none."""
        caller = Caller.of(context)
        claims = Image(ref="", size=changes.get("size"), checksums=changes.get("checksums") or {})
        known = {"id"} if str(changes.get("id") or image_id).lower() == image_id else set()
        known |= {"size", "checksums"} if data is not None else set()
        changes = {name: value for name, value in changes.items() if name not in known}

        def change(image: Image) -> Image:
            return changed_image(caller, image, changes, purge_props=purge_props)

        if data is None:
            with self._records.writing(image_id) as db:
                rows.write(db, change(self._records.owned(db, caller, image_id)))
                return self._records.load(db, image_id)
        check_claims(claims, data)
        if not self._database.exists():
            raise self._records.not_found(image_id)
        self._prepare()
        with self._files.receive() as upload:
            with self._records.writing(image_id) as db:
                image = self._records.owned(db, caller, image_id)
                change(image)  # an invalid change must fail before any data is sent
                _check_queued(image)
                rows.mark(db, image_id, status="saving", upload=upload.token, upload_undo="queued")
            return self._uploads.store(image, upload, data, claims, change)

    def delete(self, context: Context, image_id: str) -> None:
        """Mark the record as deleted, and remove the data."""
        caller = Caller.of(context)
        with self._records.writing(image_id) as db:
            image = self._records.owned(db, caller, image_id)
            if image.protected:
                raise PolicyViolation(
                    f"{image.ref} is protected",
                    hint=f"remove its protection first: imagebroker update {image.ref} "
                    "--no-protected",
                )
            rows.write(db, deleted_image(image))
            rows.mark(db, image_id, upload=None, upload_undo=None, purge=1)
        try:
            self._uploads.purge(image_id)
        except ImageBrokerError as error:
            # The record is deleted; the next upload tries again to remove the data.
            LOG.warning("cannot remove the data of the deleted image %s yet: %s", image_id, error)

    def purge(self, context: Context, older_than: float, dry_run: bool) -> Iterator[Image]:
        """Remove leftovers of dead uploads and deleted images; yields their records."""
        if not Caller.of(context).is_admin:
            raise NotAuthorized(
                "only an admin can purge the image store", hint="ask an admin of the service"
            )
        if not self._database.exists():
            return iter(())
        return Purge(self._records, self._files, self._uploads).run(older_than, dry_run)

    def _prepare(self) -> None:
        """Create the store if it does not exist, and clean up after killed processes."""
        self._files.make()
        if not self._database.exists():
            with translated(f"cannot create the image store {self.directory}"):
                self._database.make(self._files.uploads)
                self._files.sync()
        self._uploads.sweep()

    def _damaged(self, image: Image, what: str) -> BackendError:
        return BackendError(
            f"the data of {image.ref} in {self.directory} {what}",
            hint="restore the directory images of the store from a backup, or delete the image",
            retryable=False,
        )


class _Seen:
    """Keeps a list free of duplicates if an update can move an image behind the cursor.

    It takes 16 bytes for each image shown, and nothing if the order cannot change.
    """

    def __init__(self, *, needed: bool) -> None:
        self._ids = bytearray() if needed else None
        self._begin = datetime.now(UTC)

    def is_new(self, image: Image) -> bool:
        if self._ids is None:
            return True
        packed = uuid.UUID(str(image.id)).bytes
        if image.updated_at is not None and image.updated_at >= self._begin:
            place = self._ids.find(packed)
            while place % len(packed) and place >= 0:
                place = self._ids.find(packed, place + 1)
            if place >= 0:
                return False
        self._ids += packed
        return True


def _check_queued(image: Image) -> None:
    if image.status != "queued":
        raise Conflict(
            f"{image.ref} is {image.status}: its data cannot be replaced",
            hint="create a new image with the data",
        )
