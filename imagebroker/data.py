"""What `create` and `update` receive: an image's bytes on their way to a backend."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

from imagebroker.exceptions import InvalidImageRef, UploadFailed

#: Bytes in one chunk. 64 KiB pass every WSGI server; hashing them costs no more than larger ones.
CHUNK = 64 * 1024


@runtime_checkable
class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class ImageData:
    """The bytes to store: iterate it to send them, once, or again where `rewindable`.

    Every iteration counts and hashes what it hands out. If the caller's source raises, or has
    more or fewer bytes than `size`, the iteration raises `UploadFailed` (kept in `failure`, so
    that a library in between cannot lose it). Closing a file that was opened here: `close`.
    """

    #: Bytes in all, None if nobody knows.
    size: int | None
    #: True if a second iteration yields the same bytes from the beginning.
    rewindable: bool
    #: True: should the data not be stored, its caller wants the record kept, queued and empty.
    keep_record: bool = False

    def __init__(self, source: Any, size: int | None = None) -> None:
        """`source`: bytes, a path-like, an object with `read`, or an iterable of bytes.

        :raises InvalidImageRef: it is none of these, or `size` is not the size that it has.
        """
        self.failure: UploadFailed | None = None
        #: Bytes handed out by the current or last iteration.
        self.sent = 0
        self._algorithms = ["sha256"]
        self._hashers: dict[str, Any] = {}
        self._started = self._ended = False
        self._file: Any = None
        self._start = 0
        self._owned = False
        self._chunks: Iterable[bytes] | None = None
        found = self._adopt(source)
        if size is not None and found is not None and size != found:
            self.close()
            raise InvalidImageRef(f"the size is given as {size} bytes, and the data has {found}")
        self.size = found if size is None else size

    def _adopt(self, source: Any) -> int | None:
        """Take hold of the caller's source; its size if it shows."""
        if isinstance(source, (bytes, bytearray, memoryview)):
            self._file, self._owned = io.BytesIO(source), True
            return self._measure()
        if isinstance(source, (str, os.PathLike)):
            if isinstance(source, str):
                raise InvalidImageRef("data is text", hint="pass bytes, or pathlib.Path for a file")
            try:
                self._file, self._owned = open(source, "rb"), True  # noqa: SIM115 - close() does
            except OSError as error:
                raise InvalidImageRef(
                    f"cannot read {os.fspath(source)!r}: {error.strerror}"
                ) from error
            return self._measure()
        if isinstance(source, _Readable):
            if isinstance(source, io.TextIOBase):
                raise InvalidImageRef("the data's file is open in text mode", hint="open it 'rb'")
            self._file = source
            return self._measure()
        if isinstance(source, Iterable):
            self._chunks, self.rewindable = source, False
            return None
        raise InvalidImageRef(
            f"data is {type(source).__name__}",
            hint="pass bytes, a path, a binary file object or an iterator of bytes",
        )

    def _measure(self) -> int | None:
        """The bytes from the file's present position to its end, where it can tell."""
        try:
            self._start = self._file.tell()
            self._file.seek(0, os.SEEK_END)  # may return None where the object is only like a file
            end: int = self._file.tell()
            self._file.seek(self._start)
        except (AttributeError, TypeError, NotImplementedError, OSError, ValueError):
            # TypeError: handles of oslo.vmware have a `seek` with one argument, which does nothing.
            self._start, self.rewindable = 0, False
            return None
        self.rewindable = True
        return end - self._start

    def hash_with(self, *algorithms: str) -> None:
        """Compute these digests too (hashlib's names); call it before iterating."""
        self._algorithms.extend(name for name in algorithms if name not in self._algorithms)

    @property
    def complete(self) -> bool:
        """Whether an iteration came to its end."""
        return self._ended

    @property
    def checksums(self) -> dict[str, str]:
        """Algorithm to hex digest of what the last iteration handed out."""
        return {name: hasher.hexdigest() for name, hasher in self._hashers.items()}

    def __iter__(self) -> Iterator[bytes]:
        """Chunks from the beginning.

        :raises UploadFailed: the source failed, or it was begun before and cannot be rewound.
        """
        if self._started and not self.rewindable:
            raise self._fail("the data cannot be sent again: its source cannot be rewound")
        self._started, self._ended, self.sent = True, False, 0
        self._hashers = {
            name: hashlib.new(name, usedforsecurity=False) for name in self._algorithms
        }
        return self._iterate()

    def _iterate(self) -> Iterator[bytes]:
        try:
            for chunk in self._read():
                self.sent += len(chunk)
                if self.size is not None and self.sent > self.size:
                    break
                for hasher in self._hashers.values():
                    hasher.update(chunk)
                yield chunk
        except UploadFailed:
            raise
        except Exception as error:
            raise self._fail(f"the source of the data failed: {error}") from error
        if self.size is not None and self.sent != self.size:
            more = "more" if self.sent > self.size else f"only {self.sent}"
            raise self._fail(f"the data was to have {self.size} bytes, and its source has {more}")
        self._ended = True

    def _read(self) -> Iterator[bytes]:
        if self._chunks is not None:
            for chunk in self._chunks:
                view = memoryview(chunk)
                for start in range(0, len(view), CHUNK):
                    yield bytes(view[start : start + CHUNK])
            return
        if self.rewindable:
            self._file.seek(self._start)
        while chunk := self._file.read(CHUNK):
            yield chunk

    def _fail(self, message: str) -> UploadFailed:
        self.failure = UploadFailed(message)
        return self.failure

    def close(self) -> None:
        """Close what was opened here; a caller's own file object stays open."""
        if self._owned and self._file is not None:
            self._file.close()
