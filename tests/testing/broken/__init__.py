"""Backends with one bug each, in the order in which they are tested."""

from __future__ import annotations

from tests.testing.broken import (
    attempts,
    closing,
    opening,
    processes,
    reading,
    trouble,
    verbs,
)
from tests.testing.broken.register import BROKEN, LEAKED

__all__ = [
    "BROKEN",
    "LEAKED",
    "attempts",
    "closing",
    "opening",
    "processes",
    "reading",
    "trouble",
    "verbs",
]
