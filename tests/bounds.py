"""Upper bounds of time that hold on a busy machine."""

from __future__ import annotations

from testtools.matchers import LessThan

#: Seconds after which a program that a test runs is taken to hang.
HANGS = 800
#: How much longer than alone anything may take here.
SLACK = 10


def in_time(seconds: float) -> LessThan:
    """A duration that a limit of so many seconds has ended; without it, it would be far longer."""
    return LessThan(seconds * SLACK)
