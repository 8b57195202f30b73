"""Constants of a transfer that are measured, not configured (docs/performance.md says how)."""

from __future__ import annotations

from typing import NamedTuple

_MIB = 1024 * 1024


class Tuning(NamedTuple):
    """When more connections are tried, and how often things are written down."""

    #: Bytes that must be missing to make a second connection to a source worth its while: the first
    #: one is cut then, and what was on its way there is lost.
    parallel_from: int = 64 * _MIB
    #: Bytes that must be missing to have several locations read.
    many_locations_from: int = 16 * _MIB
    #: Seconds of one connection after which more of them may be tried.
    observe: float = 0.05
    #: Seconds over which the throughput is measured before and after a change.
    measure: float = 0.1
    #: Bytes of the smallest and the largest range, and of one from a source of unknown speed.
    smallest_range: int = _MIB
    largest_range: int = 64 * _MIB
    first_range: int = 8 * _MIB
    #: Seconds that one range should take.
    range_seconds: float = 1.0
    #: Seconds of silence after which another connection may take over a range.
    quiet: float = 2.0
    #: Seconds between two notes in the journal of a part file.
    journal_every: float = 1.0
    #: Seconds between two calls of a caller's `progress`.
    progress_every: float = 0.1


DEFAULT = Tuning()
