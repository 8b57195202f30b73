"""The record of an image in the metadata of its object.

Object stores have names and values in headers, so the record is JSON, percent-encoded, in as many
values as it takes: servers limit a single one (Swift: 256 bytes) and all of them (AWS: 2 KiB).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

from imagebroker.exceptions import InvalidImageRef
from imagebroker.model.image import ACTIVE, Image
from imagebroker.model.stored_record import fields_in, text_of, values_in, values_of

#: What the names of our metadata begin with.
PREFIX = "imagebroker-"
_PIECE = 200


def metadata_of(image: Image, most: int) -> dict[str, str]:
    """The metadata for an object with this record.

    :param most: bytes that every server of this kind takes.
    :raises InvalidImageRef: the record is too large.
    """
    # When it was changed last, the server knows.
    text = text_of(values_of(replace(image, updated_at=None)))
    safe = quote(text, safe="!$&'()*+,/:;=?@[]{}\"")
    if len(safe) > most:
        raise InvalidImageRef(
            f"the record has {len(safe)} bytes as metadata, and an object takes {most}",
            hint="use fewer or shorter properties and tags",
        )
    pieces = [safe[at : at + _PIECE] for at in range(0, len(safe), _PIECE)]
    return {f"{PREFIX}{number}": piece for number, piece in enumerate(pieces)}


def image_of(
    ref: str,
    key: str,
    metadata: Mapping[str, str],
    *,
    size: int | None = None,
    changed: datetime | None = None,
    version: str | None = None,
    checksums: Mapping[str, str] | None = None,
) -> Image:
    """The record of an object; of somebody else's object, what the server knows.

    :param metadata: by name, in lower case, without what the service puts before names.
    :param checksums: what the server says of the bytes, where the record has no digests.
    """
    fields = fields_in(_values(metadata))
    changed = changed.astimezone(UTC) if changed is not None else None
    fields["name"] = fields["name"] or key.rstrip("/").rpartition("/")[2] or key
    fields["checksums"] = fields["checksums"] or dict(checksums or {})
    fields["created_at"] = fields["created_at"] or changed
    fields["updated_at"] = changed
    return Image(ref, status=ACTIVE, size=size, version=version, **fields)


def same_record(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two records differ in nothing but the time of their creation."""
    first, second = ({**_values(each), "created_at": None} for each in (one, other))
    return first == second


def _values(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    pieces: list[str] = []
    while (piece := metadata.get(f"{PREFIX}{len(pieces)}")) is not None:
        pieces.append(piece)
    try:
        return values_in(unquote("".join(pieces), errors="strict"))
    except UnicodeDecodeError:
        return {}
