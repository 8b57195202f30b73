"""Descriptors 0 to 2: standard input, output and error.

A process may be started with some of them closed. The next file or socket that it opens then gets
such a number, and everything that is printed goes into it.
"""

from __future__ import annotations

import os

_FLAGS = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)


def occupy() -> None:
    """Open /dev/null on those that are closed."""
    for fd, flags in enumerate(_FLAGS):
        try:
            os.fstat(fd)
        except OSError:
            # The kernel returns the lowest free number, which is this one. Unlike other descriptors
            # in Python, it must be inherited by child processes, as the real ones are.
            os.set_inheritable(os.open(os.devnull, flags), True)
