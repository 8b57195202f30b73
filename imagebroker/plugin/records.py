"""A record as JSON, for backends that keep it beside the bytes (S3, Swift, registries, Ceph)."""

from __future__ import annotations

from imagebroker.model.stored_record import (
    FIELDS,
    changed,
    fields_in,
    number_in,
    text_of,
    values_in,
    values_of,
)

__all__ = ["FIELDS", "changed", "fields_in", "number_in", "text_of", "values_in", "values_of"]
