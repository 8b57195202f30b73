"""System calls that Python has no function for, through the C library."""

from __future__ import annotations

import ctypes
import functools


@functools.cache
def c_library() -> ctypes.CDLL:
    """The C library of this process; `ctypes.get_errno` has the error of the last call.

    One for all calls: each such object makes a class of its own, which only the garbage collector
    can free.
    """
    return ctypes.CDLL(None, use_errno=True)
