"""What a service's `download` returns or fills: an iterator, file objects."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from imagebroker.model import inputs
from imagebroker.transfer.reader import ImageReader

#: Seconds to wait for the first byte of what will be uploaded.
_TIMEOUT = 30.0


class ImageChunks(Iterator[bytes]):
    """The chunks of an image, once. It ends only after every check has passed.

    `len()` and `size` are those of the whole image. Letting go of it early, or `close`, ends the
    transfer and is not an error.
    """

    def __init__(
        self, reader: ImageReader, translated: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._reader = reader
        self._translated = translated
        self._ended = False
        #: Bytes in all, None if the source does not know.
        self.size = reader.size

    def __next__(self) -> bytes:
        chunk = None
        if not self._ended:
            with self._translated():
                chunk = next(self._reader, None)
        if chunk is None:
            self.close()
            raise StopIteration
        return chunk

    def __len__(self) -> int:
        if self.size is None:
            raise TypeError("the size of this image is not known")
        return self.size

    def __bool__(self) -> bool:
        return True  # not len(): an empty image is an image

    def close(self) -> None:
        self._ended = True
        self._reader.close()

    def __enter__(self) -> ImageChunks:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class WriteOnly:
    """A destination of Nova's kind: `write` takes everything, whatever it returns."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def write(self, chunk: Any) -> int:
        # bytes, because that is what such objects have been given so far.
        written = self._target.write(bytes(chunk))
        return written if isinstance(written, int) else len(chunk)


def writable(data: Any) -> Any:
    """`data` as something that answers like a file object."""
    if isinstance(data, io.IOBase) or not hasattr(data, "write"):
        return data
    return WriteOnly(data)


def is_special(path: str | os.PathLike[str]) -> bool:
    """Whether a device or a pipe is there, which is filled rather than replaced."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISBLK(mode) or stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def is_empty(data: Any) -> bool:
    """Whether `data`, which is to be uploaded, is a file or bytes without a byte to read.

    Services upload them, and get an empty image. What cannot seek is not asked: a pipe without a
    byte is one whose writer has failed.
    """
    if isinstance(data, (bytes, bytearray)):
        return not data
    place = inputs.place_in(data) if inputs.can_be_read(data) else None
    if place is None or place[1] != 0:
        return False
    first = next(inputs.chunks_of_file(data, 1, _TIMEOUT), b"")  # files in /proc have a size of 0
    data.seek(place[0])
    return not first


def device_of(data: Any) -> str | None:
    """The path of the block device that `data` is open at the beginning of; None if it is none."""
    path = getattr(data, "name", None)
    try:
        if not isinstance(path, str) or not path.startswith("/") or data.tell() != 0:
            return None
        opened, named = os.fstat(data.fileno()), os.stat(path)
    except (AttributeError, NotImplementedError, OSError, TypeError, ValueError):
        return None
    return path if stat.S_ISBLK(opened.st_mode) and opened.st_rdev == named.st_rdev else None
