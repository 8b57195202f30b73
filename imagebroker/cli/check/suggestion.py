"""Suggestions for an unknown name."""

from __future__ import annotations

from collections.abc import Iterable

from imagebroker.system.spelling import nearest


def similar(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`; None if there is none."""
    return next(iter(nearest(name, list(known))), None)


def suggestion(name: str | None) -> str:
    """The remedy for an unknown name, where `name` may have been meant."""
    if name:
        return f"did you mean {name}?"
    return "remove it, or correct the name; list all options with: imagebroker config sample"
