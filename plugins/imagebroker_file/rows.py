"""Image records as rows: how each field is kept, and the statements that write them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from imagebroker.plugin import Image

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

#: Fields of `Image` that are columns as they are.
PLAIN = (
    "id", "name", "status", "visibility", "owner", "size", "virtual_size", "disk_format",
    "container_format", "min_disk", "min_ram", "version",
)  # fmt: skip
FLAGS = ("hidden", "protected")
TIMES = ("created_at", "updated_at", "deleted_at")
COLUMNS = (*PLAIN, *FLAGS, *TIMES, "checksums")


def from_time(moment: datetime) -> int:
    """Microseconds since 1970; a datetime without a zone is UTC."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICROSECOND


def to_time(microseconds: int) -> datetime:
    return _EPOCH + microseconds * _MICROSECOND


def property_text(value: Any) -> str:
    """What a filter on a property compares: text as it is, else its JSON (5, true)."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, allow_nan=False)


def find(db: sqlite3.Connection, image_id: str) -> sqlite3.Row | None:
    """The row of an image, deleted or not."""
    row: sqlite3.Row | None = db.execute("SELECT * FROM images WHERE id = ?", [image_id]).fetchone()
    return row


def assemble(
    db: sqlite3.Connection, rows: Sequence[sqlite3.Row], ref_of: Callable[[str], str]
) -> list[Image]:
    """The images of these rows."""
    numbers = [row["number"] for row in rows]
    tags = _gathered(db, "tags", "tag", numbers)
    members = _gathered(db, "members", "project", numbers)
    properties: dict[int, dict[str, Any]] = {}
    for number, name, value in _children(db, "properties", "name, value", numbers):
        properties.setdefault(number, {})[name] = json.loads(value)
    return [
        replace(
            _image(row, ref_of),
            tags=tuple(tags.get(row["number"], ())),
            members=tuple(members.get(row["number"], ())),
            properties=properties.get(row["number"], {}),
        )
        for row in rows
    ]


def _image(row: sqlite3.Row, ref_of: Callable[[str], str]) -> Image:
    values: dict[str, Any] = {name: row[name] for name in PLAIN}
    values.update((name, bool(row[name])) for name in FLAGS)
    values.update((name, to_time(row[name])) for name in TIMES if row[name] is not None)
    return Image(ref=ref_of(row["id"]), checksums=json.loads(row["checksums"]), **values)


def _gathered(
    db: sqlite3.Connection, table: str, column: str, numbers: Sequence[int]
) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for number, value in _children(db, table, column, numbers):
        found.setdefault(number, []).append(value)
    return found


def _children(
    db: sqlite3.Connection, table: str, columns: str, numbers: Sequence[int]
) -> Iterable[Any]:
    """Rows that belong to these images, in the order in which they were given."""
    marks = ", ".join("?" * len(numbers))
    statement = f"SELECT image, {columns} FROM {table} WHERE image IN ({marks}) ORDER BY rowid"  # noqa: S608
    return db.execute(statement, list(numbers))


def insert(
    db: sqlite3.Connection, image: Image, *, upload: str | None = None, undo: str | None = None
) -> None:
    """A new record. :raises sqlite3.IntegrityError: the id exists."""
    values = {**_values(image), "upload": upload, "upload_undo": undo}
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    cursor = db.execute(f"INSERT INTO images ({names}) VALUES ({marks})", list(values.values()))  # noqa: S608
    _insert_children(db, cursor.lastrowid, image)


def write(db: sqlite3.Connection, image: Image) -> None:
    """Replace a record by `image`, which has the same id."""
    values = _values(image)
    names = ", ".join(f"{name} = ?" for name in values)
    db.execute(f"UPDATE images SET {names} WHERE id = ?", [*values.values(), image.id])  # noqa: S608
    (number,) = db.execute("SELECT number FROM images WHERE id = ?", [image.id]).fetchone()
    for table in ("properties", "tags", "members"):
        db.execute(f"DELETE FROM {table} WHERE image = ?", [number])  # noqa: S608
    _insert_children(db, number, image)


def mark(db: sqlite3.Connection, image_id: str, **values: Any) -> None:
    """Set columns that keep the store's books, or the status."""
    names = ", ".join(f"{name} = ?" for name in values)
    db.execute(f"UPDATE images SET {names} WHERE id = ?", [*values.values(), image_id])  # noqa: S608


def remove(db: sqlite3.Connection, image_id: str) -> None:
    """Remove every trace of a record whose data never arrived."""
    db.execute("DELETE FROM images WHERE id = ?", [image_id])


def retire(db: sqlite3.Connection, image_id: str) -> None:
    """Remove every trace of a deleted image but its id, which is never used again."""
    db.execute("INSERT OR IGNORE INTO retired (id) VALUES (?)", [image_id])
    remove(db, image_id)


def is_taken(db: sqlite3.Connection, image_id: str) -> bool:
    """Whether there is, or ever was, an image of this id."""
    retired = db.execute("SELECT 1 FROM retired WHERE id = ?", [image_id]).fetchone()
    return retired is not None or find(db, image_id) is not None


def _values(image: Image) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(image, name) for name in PLAIN}
    values.update((name, int(bool(getattr(image, name)))) for name in FLAGS)
    for name in TIMES:
        moment = getattr(image, name)
        values[name] = None if moment is None else from_time(moment)
    values["checksums"] = json.dumps(dict(image.checksums))
    return values


def _insert_children(db: sqlite3.Connection, number: int | None, image: Image) -> None:
    db.executemany(
        "INSERT INTO properties (image, name, value, text) VALUES (?, ?, ?, ?)",
        [
            (number, name, json.dumps(value), property_text(value))
            for name, value in image.properties.items()
        ],
    )
    db.executemany(
        "INSERT INTO tags (image, tag) VALUES (?, ?)", [(number, tag) for tag in image.tags or ()]
    )
    db.executemany(
        "INSERT INTO members (image, project) VALUES (?, ?)",
        [(number, project) for project in image.members or ()],
    )
