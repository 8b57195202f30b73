"""The record of an image, as the commands that end with one show it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from imagebroker.cli.output import cell
from imagebroker.model.image import FIELDS, Image


def record(
    image: Image, parsed: argparse.Namespace, columns: Sequence[str] = FIELDS
) -> tuple[Sequence[str], Sequence[Any]]:
    """An image's record as cliff shows it; a table leaves out the fields that are not known."""
    brief = parsed.formatter == "table" and not parsed.columns
    names = [
        name for name in columns if not brief or getattr(image, name) not in (None, (), {})
    ]  # fmt: skip
    return names, [cell(name, getattr(image, name)) for name in names]
