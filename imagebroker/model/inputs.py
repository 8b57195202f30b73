"""Reads any kind of object that a caller passes, until its data has really ended.

An object without data *yet* shows it in many ways: `read` returns None (a raw file or socket in
non-blocking mode), raises `BlockingIOError` or TLS's "want read", or an iterator yields None. None
of these is the end of the data: only an empty result of `read` is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from imagebroker.system.readiness import Waiting, is_not_ready


class Wrong(Exception):
    """The object returned something other than bytes."""


def can_be_read(source: object) -> bool:
    """Whether it has `read`, or at least `readinto`."""
    return callable(getattr(source, "read", None)) or callable(getattr(source, "readinto", None))


def place_in(file: Any) -> tuple[int, int] | None:
    """The position in a file, and the bytes from there to its end; None if it cannot seek."""
    try:
        start = file.tell()
        file.seek(0, os.SEEK_END)  # returns None in some file-like objects
        end = file.tell()
        file.seek(start)
        return start, end - start
    except (AttributeError, TypeError, NotImplementedError, OSError, ValueError):
        # TypeError: oslo.vmware's handles have a `seek` with one argument that does nothing.
        return None


def chunks_of_file(source: Any, size: int, patience: float) -> Iterator[bytes]:
    """The data of a file object from its position on, at most `size` bytes at a time.

    :param patience: seconds to wait for more data.
    :raises Stalled: no data for so long.
    :raises Wrong: it returned something other than bytes. Its own exceptions are passed on.
    """
    read = _reading(source, size)
    waiting = Waiting(source, patience)
    while True:
        try:
            found = read()
        except OSError as error:
            if not is_not_ready(error):
                raise
            found = None
        if found is None:
            waiting.wait()
            continue
        waiting.over()
        data = _bytes(found, "read()")
        if not len(data):
            return
        yield from _pieces(data, size)


def chunks_of_iterable(source: Iterable[Any], size: int, patience: float) -> Iterator[bytes]:
    """The data of an iterable, at most `size` bytes at a time. Empty items do not end it."""
    waiting = Waiting(source, patience)
    for found in source:
        if found is None:  # iter(pipe.read, b"") on a non-blocking pipe
            waiting.wait()
            continue
        waiting.over()
        yield from _pieces(_bytes(found, "the iterator"), size)


def _reading(source: Any, size: int) -> Callable[[], Any]:
    if callable(getattr(source, "read", None)):
        return lambda: source.read(size)
    buffer = bytearray(size)

    def read() -> Any:
        count = source.readinto(buffer)
        if count is None:
            return None
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= size:
            raise Wrong(f"readinto() returned {count!r} for {size} bytes")
        return bytes(memoryview(buffer)[:count])

    return read


def _bytes(found: Any, who: str) -> memoryview:
    """`found` as bytes.

    :raises Wrong: it is something else, such as text.
    """
    try:
        view = memoryview(found)
    except TypeError:
        raise Wrong(f"{who} returned {type(found).__name__}, not bytes") from None
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def _pieces(data: memoryview, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield bytes(data[start : start + size])
