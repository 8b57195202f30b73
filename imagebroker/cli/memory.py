"""Keeps the memory of the command small, whatever the number of its threads."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8


def share_arenas() -> None:
    """Have all threads allocate from one pool.

    glibc gives each thread a pool of its own, and what was freed in one is of no use to the others:
    with a thread for each range that is 20 MiB, and more where connections break. A service decides
    this for itself.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
