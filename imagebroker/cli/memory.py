"""Keeps the memory of the command small, whatever the number of its threads."""

from __future__ import annotations

from imagebroker.system.c_library import c_library

_M_ARENA_MAX = -8


def share_arenas() -> None:
    """Have all threads allocate from one malloc arena.

    glibc gives each thread an arena of its own, and memory that was freed in one cannot be used by
    the others: with a thread per range that wastes 20 MiB, and more if connections break. Only the
    command does this: a service decides for itself.
    """
    mallopt = getattr(c_library(), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
