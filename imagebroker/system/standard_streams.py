"""Descriptors 0 to 2, which every program takes for standard input, output and error.

A process may be started with any of them closed, or close them itself. The next file or socket that
it opens then gets such a number, and whatever is printed goes into it.
"""

from __future__ import annotations

import os

_FLAGS = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)


def occupy() -> None:
    """Open /dev/null on those that are closed; the others stay as they are."""
    for fd, flags in enumerate(_FLAGS):
        try:
            os.fstat(fd)
        except OSError:
            # The kernel gives out the lowest free number, which is this one; and unlike what else
            # Python opens, it is inherited by child processes as the real ones are.
            os.set_inheritable(os.open(os.devnull, flags), True)
