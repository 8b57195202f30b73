"""Standard input, output and error (descriptors 0 to 2).

A process may be started with some of them closed. The next file or socket that it opens then gets
such a number, and everything that is printed goes into it. Or whoever started it has them in
non-blocking mode, as Node.js and some ssh clients have: a write then takes what fits, and Python
raises an error, or with PYTHONUNBUFFERED drops the rest without a word.
"""

from __future__ import annotations

import io
import os
from typing import Any, TextIO

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


class BlockingWriter(io.RawIOBase):
    """Writes to a descriptor of somebody else's, and waits while it is not ready."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        while True:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:
                self._wait()

    def _wait(self) -> None:
        from select import POLLOUT, poll  # most outputs are always ready

        ready = poll()
        ready.register(self._fd, POLLOUT)
        ready.poll()


def blocking(stream: TextIO) -> TextIO:
    """A text stream to the same descriptor that stores all of a text; `stream` where it has none.

    For text: what has a limit of time, such as an image, waits by its own rules.
    """
    try:
        fd = stream.fileno()
    except (OSError, ValueError):
        return stream
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(BlockingWriter(fd)), encoding=stream.encoding, errors=stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,
    )  # fmt: skip
