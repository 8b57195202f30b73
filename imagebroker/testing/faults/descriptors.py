"""Runs out of file descriptors on purpose."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def few_descriptors(spare: int) -> Iterator[None]:
    """Inside the block this process can open `spare` descriptors more, and then has EMFILE.

    It holds for every thread, so servers that run in this process suffer too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = _free(spare, soft)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _free(spare: int, most: int) -> int:
    """The limit at which exactly `spare` numbers below it are unused."""
    used = {int(name) for name in os.listdir("/proc/self/fd") if _is_open(int(name))}
    limit = 0
    while limit < most:
        if limit not in used:
            if not spare:
                break
            spare -= 1
        limit += 1
    return limit


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False  # that of the listing itself
    return True
