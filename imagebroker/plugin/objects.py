"""Shared code of backends for object stores: records in metadata, names, uploads in parts.

The backends for S3 and Swift are made with it; see them for an example.
"""

from __future__ import annotations

from imagebroker.http.objects.names import Place, can_be_named, check_unprotected
from imagebroker.http.objects.records import PREFIX, image_of, metadata_of
from imagebroker.http.objects.upload import Destination, Layout, Part, Stored, Upload, taken
from imagebroker.model.stored_record import FIELDS, changed

__all__ = [
    "FIELDS",
    "PREFIX",
    "Destination",
    "Layout",
    "Part",
    "Place",
    "Stored",
    "Upload",
    "can_be_named",
    "changed",
    "check_unprotected",
    "image_of",
    "metadata_of",
    "taken",
]
