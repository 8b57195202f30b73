"""`purge` for a store: removes dead uploads, and leftovers of deleted images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from imagebroker.plugin import Image
from imagebroker_file import rows
from imagebroker_file.data_files import DataFiles
from imagebroker_file.gate import aside
from imagebroker_file.records import Records
from imagebroker_file.uploads import Uploads

#: Records that are removed in one transaction: other writers wait for it.
_BATCH = 100
_UPLOADS = "SELECT * FROM images WHERE upload IS NOT NULL"
_DELETED = """
    SELECT * FROM images WHERE status = 'deleted' AND deleted_at <= ? AND id > ?
    ORDER BY id LIMIT ?
"""


class Purge:
    """One purge. An upload is dead if no process holds its lock, whatever its age."""

    def __init__(self, records: Records, data_files: DataFiles, uploads: Uploads) -> None:
        self._records = records
        self._files = data_files
        self._uploads = uploads

    def run(self, older_than: float, dry_run: bool) -> Iterator[Image]:
        """The records that are removed.

        :param older_than: seconds since an image was deleted.
        """
        yield from aside(self._dead_uploads)
        if not dry_run:
            aside(self._uploads.sweep)
        yield from self._deleted(int((time.time() - older_than) * 1e6), dry_run)

    def _dead_uploads(self) -> list[Image]:
        with self._records.database.reading() as db:
            found = db.execute(_UPLOADS).fetchall()
            dead = [row for row in found if not self._files.is_locked(row["upload"])]
            return rows.assemble(db, dead, self._records.ref_of)

    def _deleted(self, before: int, dry_run: bool) -> Iterator[Image]:
        last = ""
        while True:
            ids, images = aside(partial(self._page, before, last))
            if not ids:
                return
            last = ids[-1]
            if not dry_run:
                aside(partial(self._remove, ids))
            yield from images

    def _page(self, before: int, last: str) -> tuple[list[str], list[Image]]:
        with self._records.database.reading() as db:
            page = db.execute(_DELETED, [before, last, _BATCH]).fetchall()
            return [row["id"] for row in page], rows.assemble(db, page, self._records.ref_of)

    def _remove(self, image_ids: list[str]) -> None:
        for image_id in image_ids:
            self._files.remove(image_id)
        with self._records.database.writing() as db:
            for image_id in image_ids:
                rows.retire(db, image_id)
