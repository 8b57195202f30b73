"""Which fields of a record a backend stores, and which would be lost."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from imagebroker.exceptions import UnsupportedOperation
from imagebroker.model.image import Image
from imagebroker.redaction import redact

LOG = logging.getLogger(__name__)

#: These describe the bytes. The upload is checked against them, whether or not they are stored.
_OF_THE_BYTES = frozenset({"size", "disk_format", "container_format"})


def not_stored(info: Mapping[str, Any], stored: Collection[str] | None) -> tuple[str, ...]:
    """The fields in `info` that a backend does not store, properties as `property-<name>`.

    :param stored: what the backend declares; None: it declares nothing, and gets everything.
    """
    if stored is None:
        return ()
    return tuple(_names(info, set(stored) | _OF_THE_BYTES))


def _names(info: Mapping[str, Any], stored: Collection[str]) -> Iterable[str]:
    for name, value in info.items():
        if name in stored:
            continue
        if name == "properties" and value:
            yield from (f"property-{each}" for each in value)
        else:
            yield name


def check_stored(info: Mapping[str, Any], stored: Collection[str] | None, backend: str) -> None:
    """:raises UnsupportedOperation: names the fields that the backend would lose."""
    if lost := not_stored(info, stored):
        raise UnsupportedOperation(
            f"the {backend} backend does not store {', '.join(lost)}",
            hint=f"leave out {'it' if len(lost) == 1 else 'them'}; it stores "
            f"{', '.join(sorted(stored or ())) or 'no fields'}",
        )


def left_out(
    image: Image,
    info: Mapping[str, Any],
    stored: Collection[str] | None,
    backend: str,
    strict: bool,
) -> tuple[str, ...]:
    """The fields in `info` that a copy of `image` loses in a backend; they are logged.

    :raises UnsupportedOperation: there are any, and the copy is strict.
    """
    if strict:
        check_stored(info, stored, backend)
    lost = not_stored(info, stored)
    if lost:
        LOG.warning(
            "the copy of %s leaves out %s: the %s backend does not store %s",
            redact(image.ref, 200), ", ".join(lost), backend, "it" if len(lost) == 1 else "them",
        )  # fmt: skip
    return lost


def fitting(info: Mapping[str, Any], lost: Iterable[str]) -> dict[str, Any]:
    """`info` without the fields that are lost."""
    gone = set(lost)
    kept = {name: value for name, value in info.items() if name not in gone}
    if any(name.startswith("property-") for name in gone):
        kept.pop("properties", None)
    return kept
