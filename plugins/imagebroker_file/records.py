"""The records of a store: transactions on them, and who can see and change which."""

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
    """Image records. Call methods with a `db` within a transaction."""

    def __init__(self, database: Database, directory: Path, ref_of: Callable[[str], str]) -> None:
        self.database = database
        self.ref_of = ref_of
        self._directory = directory

    def id_of(self, ref: str) -> str:
        """The id in a ref of this store; anything else is returned as it is, and not found."""
        return ref.removeprefix(self.ref_of("*")[:-1]).lower()

    def insert(self, image: Image, upload: str | None = None, undo: str | None = None) -> Image:
        """Store a new record. :raises Conflict: its id was used before."""
        image_id = str(image.id)
        with self.database.writing() as db:
            if rows.is_taken(db, image_id):
                raise Conflict(
                    f"the image id {image_id} is already used",
                    hint="choose another id, or omit it to get a new one; ids of deleted images "
                    "are never used again",
                )
            rows.insert(db, image, upload=upload, undo=undo)
            return self.load(db, image_id)

    def load(self, db: sqlite3.Connection, image_id: str) -> Image:
        """The image, for any caller."""
        row = rows.find(db, image_id)
        if row is None:
            raise self.not_found(image_id)
        return rows.assemble(db, [row], self.ref_of)[0]

    def seen(self, db: sqlite3.Connection, caller: Caller, image_id: str) -> Image:
        """The image, even a deleted one, if the caller can see it."""
        image = self.load(db, image_id)
        if not caller.sees(image):
            raise self.not_found(image_id)
        return image

    def owned(self, db: sqlite3.Connection, caller: Caller, image_id: str) -> Image:
        """The image, if it is not deleted and the caller can change it."""
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
        """A read transaction. :raises ImageNotFound: there is no store, so no `image_id`."""
        try:
            with self.database.reading() as db:
                yield db
        except FileNotFoundError:
            raise self.not_found(image_id) from None

    @contextmanager
    def writing(self, image_id: str) -> Iterator[sqlite3.Connection]:
        """A write transaction. :raises ImageNotFound: there is no store, so no `image_id`."""
        try:
            with self.database.writing() as db:
                yield db
        except FileNotFoundError:
            raise self.not_found(image_id) from None

    def not_found(self, image_id: str) -> ImageNotFound:
        ref = self.ref_of(image_id)
        if not self.database.exists():
            hint = (
                f"create an image first: there is no image store in {self._directory} yet;"
                f" or write where it is: glance:{image_id}"
            )
            return ImageNotFound(f"{ref}: no such image", hint=hint)
        return ImageNotFound(
            f"{ref}: no such image", hint="list the existing images with: imagebroker list"
        )

    def gone(self, image: Image) -> Gone:
        when = image.deleted_at.isoformat(timespec="seconds") if image.deleted_at else "some time"
        return Gone(
            f"{image.ref} was deleted at {when}", hint="get its record with show_deleted=True"
        )
