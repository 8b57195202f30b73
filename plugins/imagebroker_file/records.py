"""The records of a store: transactions on them, and who may see and change which."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from imagebroker.plugin import Conflict, Gone, Image, ImageNotFound, NotAuthorized
from imagebroker_file import rows
from imagebroker_file.database import Database
from imagebroker_file.rules import Caller


class Records:
    """Image records. Every method with `db` belongs into a transaction of the caller's."""

    def __init__(self, database: Database, directory: Path, ref_of: Callable[[str], str]) -> None:
        self.database = database
        self.ref_of = ref_of
        self._directory = directory

    def id_of(self, ref: str) -> str:
        """The id in a ref of this store; what is none stays as it is, and is not found."""
        return ref.removeprefix(self.ref_of("*")[:-1]).lower()

    def insert(self, image: Image, upload: str | None = None, undo: str | None = None) -> Image:
        """Store a new record. :raises Conflict: its id was used before."""
        image_id = str(image.id)
        with self.database.writing() as db:
            if rows.is_taken(db, image_id):
                raise Conflict(
                    f"the image id {image_id} is taken",
                    hint="ids are never used twice, also not those of deleted images: "
                    "leave it out to get a new one",
                )
            rows.insert(db, image, upload=upload, undo=undo)
            return self.load(db, image_id)

    def load(self, db: sqlite3.Connection, image_id: str) -> Image:
        """The image, whoever asks."""
        row = rows.find(db, image_id)
        if row is None:
            raise self.not_found(image_id)
        return rows.assemble(db, [row], self.ref_of)[0]

    def seen(self, db: sqlite3.Connection, caller: Caller, image_id: str) -> Image:
        """The image, also a deleted one, if the caller may know of it."""
        image = self.load(db, image_id)
        if not caller.sees(image):
            raise self.not_found(image_id)
        return image

    def owned(self, db: sqlite3.Connection, caller: Caller, image_id: str) -> Image:
        """The image, if it is not deleted and the caller may change it."""
        image = self.seen(db, caller, image_id)
        if image.deleted:
            raise self.gone(image)
        if not caller.may_change(image):
            raise NotAuthorized(
                f"{image.ref} belongs to another project", hint="ask its owner, or an admin"
            )
        return image

    @contextmanager
    def reading(self, image_id: str) -> Iterator[sqlite3.Connection]:
        """One view of the store. :raises ImageNotFound: `image_id`, because there is no store."""
        try:
            with self.database.reading() as db:
                yield db
        except FileNotFoundError:
            raise self.not_found(image_id) from None

    @contextmanager
    def writing(self, image_id: str) -> Iterator[sqlite3.Connection]:
        """One transaction. :raises ImageNotFound: `image_id`, because there is no store."""
        try:
            with self.database.writing() as db:
                yield db
        except FileNotFoundError:
            raise self.not_found(image_id) from None

    def not_found(self, image_id: str) -> ImageNotFound:
        ref = self.ref_of(image_id)
        if not self.database.exists():
            hint = f"there is no image store in {self._directory} yet: the first create makes it"
            return ImageNotFound(f"{ref}: no such image", hint=hint)
        return ImageNotFound(f"{ref}: no such image", hint="list shows the images there are")

    def gone(self, image: Image) -> Gone:
        when = image.deleted_at.isoformat(timespec="seconds") if image.deleted_at else "some time"
        return Gone(f"{image.ref} was deleted at {when}", hint="show_deleted shows what is left")
