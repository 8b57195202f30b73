"""The record of a snapshot, in the metadata of its image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from imagebroker.plugin import ACTIVE, Image, records


@dataclass(frozen=True)
class Record:
    """What the metadata says of one snapshot."""

    values: Mapping[str, Any]

    @property
    def is_whole_image(self) -> bool:
        """Whether `create` made the image for this snapshot."""
        return self.values.get("whole_image") is True


def key_of(snapshot_id: int | None) -> str:
    """The key of the metadata of a snapshot."""
    return f"imagebroker.{'head' if snapshot_id is None else snapshot_id}"


def text_of(image: Image, *, whole_image: bool) -> str:
    """The metadata of a snapshot with this record."""
    values = records.values_of(image)
    if whole_image:
        values["whole_image"] = True
    return records.text_of(values)


def record_of(text: str | None) -> Record:
    """What a metadata text says; nothing if it is none of ours."""
    return Record(records.values_in(text))


def image_of(
    ref: str, name: str, record: Record, *, size: int, version: str | None, created: datetime | None
) -> Image:
    """The record of a snapshot; of somebody else's, what Ceph knows."""
    fields = records.fields_in(record.values)
    fields["name"] = fields["name"] or name
    fields["created_at"] = fields["created_at"] or created
    fields["updated_at"] = fields["updated_at"] or fields["created_at"]
    return Image(ref, status=ACTIVE, size=size, version=version, **fields)
