"""The root of an image's hash tree (BEP 52) in its record: what hosts of a fleet hold pieces to."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping

from imagebroker.backends.backend import Context
from imagebroker.backends.boundary import Boundary
from imagebroker.exceptions import ImageBrokerError
from imagebroker.model.image import TREE_ROOT, Image
from imagebroker.model.reference import ImageRef
from imagebroker.swarm.tree import Root

LOG = logging.getLogger(__name__)

#: As a multihash: SHA-256, 32 bytes.
_PREFIX = "1220"
_VALUE = re.compile(r"1220[0-9a-f]{64}")


class RecordedRoot(Root):
    """Computes the root as it stands in a record."""

    def hexdigest(self) -> str:
        found = super().hexdigest()
        return _PREFIX + found if found else ""


def of(image: Image) -> bytes | None:
    """The root that a record names; None if it names none that could be one."""
    found = image.properties.get(TREE_ROOT)
    if not isinstance(found, str) or not _VALUE.fullmatch(found):
        return None
    return bytes.fromhex(found.removeprefix(_PREFIX))


def to_compute(image: Image) -> Mapping[str, Callable[[], RecordedRoot]]:
    """What a download computes besides: nothing where the record has it already."""
    return {} if of(image) is not None else {TREE_ROOT: RecordedRoot}


def stored(backend: Boundary, context: Context, ref: ImageRef, value: str | None) -> Image | None:
    """The record with the root in it; None where it has no place, or the caller may not write."""
    fields = backend.declared.record_fields
    can = "update" in backend.declared.capabilities and (fields is None or "properties" in fields)
    if not value or not can:
        return None
    try:
        return backend.update(context, ref, {"properties": {TREE_ROOT: value}}, None, False)
    except ImageBrokerError as error:
        LOG.info("%s: its record is without the root of its hash tree: %s", ref, error)
        return None
