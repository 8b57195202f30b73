"""The record of a copy: a module of its own, because making a dataclass takes time at start-up."""

from __future__ import annotations

from dataclasses import dataclass

from imagebroker.model.image import Image


@dataclass(frozen=True)
class CopiedImage(Image):
    """The record of a copy."""

    #: The fields of the original that the destination cannot store; properties as
    #: `property-<name>`.
    not_stored: tuple[str, ...] = ()
