"""The data that `create` and `update` upload to a backend."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from imagebroker.exceptions import InvalidImageRef, UploadFailed, VerificationError
from imagebroker.model import inputs
from imagebroker.model.service import Target
from imagebroker.system.handover import Handover
from imagebroker.system.readiness import Stalled

#: Bytes in one chunk. 64 KiB work with every WSGI server, and larger chunks hash no faster.
CHUNK = 64 * 1024


class ContentCheck(Protocol):
    """Checks the bytes of one iteration; raises if they are not acceptable."""

    def feed(self, chunk: bytes, /) -> None: ...

    def evidence(self) -> object: ...


class Hasher(Protocol):
    """Used like a hash of `hashlib`."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object: ...

    def hexdigest(self) -> str: ...


class ImageData:
    """The data to store: iterate over it to send it, once, or again if it is `rewindable`.

    Every iteration counts and hashes what it yields. If the caller's source raises, or has more or
    fewer bytes than `size`, the iteration raises `UploadFailed` (also kept in `failure`, so that a
    library in between cannot lose it). A source without data yet, such as a non-blocking pipe, is
    waited for. Data that is not an acceptable image raises `VerificationError` before the last byte
    is yielded. Empty data is accepted only if `size` is given as 0. Call `close` at the end.
    """

    #: Total number of bytes; None if unknown.
    size: int | None
    #: True if a second iteration yields the same bytes from the beginning.
    rewindable: bool
    #: True: if the upload fails, the caller wants to keep the record, queued and empty.
    keep_record: bool
    #: Where the caller wants it to be kept.
    target: Target
    #: Makes the check for data of a size (None: unknown); None: the data is not checked.
    checked_by: Callable[[int | None], ContentCheck] | None
    #: Makes a further hash over all bytes; None: there is none.
    hashed_by: Callable[[], Hasher] | None

    def __init__(
        self,
        source: Any,
        size: int | None = None,
        *,
        stall_timeout: float = 30.0,
        keep_record: bool = False,
        target: Target = Target(),  # noqa: B008 - it is frozen
        checked_by: Callable[[int | None], ContentCheck] | None = None,
        hashed_by: Callable[[], Hasher] | None = None,
    ) -> None:
        """`source`: bytes, a path-like, an object with `read`, or an iterable of bytes.

        :param stall_timeout: seconds to wait for more data from the source.
        :raises InvalidImageRef: it is none of these, or `size` is not its size.
        :raises UploadFailed: it is empty, and `size` is not 0.
        """
        self._patience = stall_timeout
        self.keep_record, self.target = keep_record, target
        self.checked_by, self.hashed_by = checked_by, hashed_by
        self.failure: UploadFailed | VerificationError | None = None
        #: Bytes yielded by the current or last iteration.
        self.sent = 0
        self._algorithms = ["sha256"]
        self._hashers: dict[str, Any] = {}
        self._extra: Hasher | None = None
        self._started = self._ended = False
        self._file: Any = None
        self._handover: Handover | None = None
        self._start = 0
        self._owned = False
        self._chunks: Iterable[bytes] | None = None
        found = self._adopt(source)
        if size is not None and found is not None and size != found:
            self.close()
            raise InvalidImageRef(
                f"the size is given as {size} bytes, but the data has {found}",
                hint="give no size, or the right one",
            )
        self.size = found if size is None else size
        #: Whether the caller wants an empty image.
        self._may_be_empty = size == 0
        if found == 0 and size is None:
            self._look_for_bytes()

    def _adopt(self, source: Any) -> int | None:
        """Store the caller's source; returns its size if that can be seen."""
        if isinstance(source, (bytes, bytearray, memoryview)):
            self._file, self._owned = io.BytesIO(source), True
            return self._measure()
        if isinstance(source, (str, os.PathLike)):
            if isinstance(source, str):
                raise InvalidImageRef(
                    "data is text, not bytes", hint="pass bytes, or a pathlib.Path for a file"
                )
            try:
                self._file, self._owned = open(source, "rb"), True  # noqa: SIM115 - close() does
            except OSError as error:
                raise InvalidImageRef(
                    f"cannot read {os.fspath(source)!r}: {error.strerror}", hint="check the path"
                ) from error
            return self._measure()
        if inputs.can_be_read(source):
            if isinstance(source, io.TextIOBase):
                raise InvalidImageRef(
                    "the file with the data is open in text mode", hint="open it with mode 'rb'"
                )
            self._file = source
            return self._measure()
        if isinstance(source, Iterable):
            self._chunks, self.rewindable = source, False
            return None
        raise InvalidImageRef(
            f"data cannot be {type(source).__name__}",
            hint="pass bytes, a path, a binary file object or an iterator of bytes",
        )

    def _measure(self) -> int | None:
        """The bytes from the file's current position to its end; None if it cannot seek."""
        place = inputs.place_in(self._file)
        self.rewindable = place is not None
        self._start, size = place or (0, None)
        return size

    def _look_for_bytes(self) -> None:
        """Read from a file whose size is 0: files in /proc and /sys have data nevertheless.

        :raises UploadFailed: it is empty.
        """
        try:
            first = next(inputs.chunks_of_file(self._file, 1, self._patience), b"")
            self._file.seek(self._start)
        except Exception as error:
            self.close()
            raise self._failed(error) from error
        if not first:
            self.close()
            raise self._fail(*_EMPTY)
        self.size = None

    def hash_with(self, *algorithms: str) -> None:
        """Also compute these digests (hashlib's names); call it before iterating."""
        self._algorithms.extend(name for name in algorithms if name not in self._algorithms)

    @property
    def complete(self) -> bool:
        """Whether an iteration was completed."""
        return self._ended

    @property
    def checksums(self) -> dict[str, str]:
        """Algorithm to hex digest of what the last iteration yielded."""
        return {name: hasher.hexdigest() for name, hasher in self._hashers.items()}

    @property
    def extra_digest(self) -> str | None:
        """The result of `hashed_by` over all that was sent; None without `hashed_by`."""
        return None if self._extra is None else self._extra.hexdigest()

    def __iter__(self) -> Iterator[bytes]:
        """Chunks from the beginning.

        :raises UploadFailed: the source failed, or this is a second iteration and it cannot seek.
        :raises VerificationError: the data is not an acceptable image.
        """
        if self._started and not self.rewindable:
            raise self._fail("the data cannot be sent again: its source cannot be rewound")
        self._started, self._ended, self.sent = True, False, 0
        self._hashers = {
            name: hashlib.new(name, usedforsecurity=False) for name in self._algorithms
        }
        self._extra = None if self.hashed_by is None else self.hashed_by()
        return self._iterate()

    def _iterate(self) -> Iterator[bytes]:
        try:
            for chunk in self._checked(self._brought()):
                self.sent += len(chunk)
                if self.size is not None and self.sent > self.size:
                    break
                for hasher in self._hashers.values():
                    hasher.update(chunk)
                if self._extra is not None:
                    self._extra.update(chunk)
                yield chunk
        except UploadFailed:
            raise
        except VerificationError as error:
            self.failure = error
            raise
        except Exception as error:
            raise self._failed(error) from error
        if not self.sent and not self._may_be_empty and self.size in (None, 0):
            raise self._fail(*_EMPTY)
        if self.size is not None and self.sent != self.size:
            more = "more" if self.sent > self.size else f"only {self.sent}"
            raise self._fail(
                f"the data should have {self.size} bytes, but its source has {more}",
                "check that the source is complete, and the size, if one was given",
            )
        self._ended = True

    def _checked(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The same chunks; the last one only after the check has passed."""
        if self.checked_by is None:
            yield from chunks
            return
        check, held = self.checked_by(self.size), b""
        for chunk in chunks:
            check.feed(chunk)
            if held:
                yield held
            held = chunk
        if held or self._may_be_empty:
            check.evidence()
        if held:
            yield held

    def handed_over(self) -> Handover:
        """From now on, the source is read in the thread that serves the returned handover."""
        self._handover = Handover(_AHEAD if self.rewindable else 0)
        return self._handover

    def _brought(self) -> Iterator[bytes]:
        return self._read() if self._handover is None else self._handover.taken(self._read)

    def _read(self) -> Iterator[bytes]:
        if self._chunks is not None:
            return inputs.chunks_of_iterable(self._chunks, CHUNK, self._patience)
        if self.rewindable:
            self._file.seek(self._start)
        return inputs.chunks_of_file(self._file, CHUNK, self._patience)

    def _failed(self, error: Exception) -> UploadFailed:
        """An error for what the caller's source raised."""
        text = f"the source of the data failed: {str(error) or type(error).__name__}"
        if isinstance(error, (Stalled, TimeoutError)):
            return self._fail(
                text,
                "check why the source has no more data, or raise stall_timeout",
                retryable=True,
            )
        return self._fail(text)

    def _fail(self, message: str, hint: str = "", *, retryable: bool = False) -> UploadFailed:
        self.failure = UploadFailed(message, hint=hint, retryable=retryable)
        return self.failure

    def close(self) -> None:
        """Close a file that was opened here; the caller's own file object stays open."""
        if self._owned and self._file is not None:
            self._file.close()


#: Bytes of a file that are read ahead while a plugin sends those before them.
_AHEAD = 1024 * 1024
#: Text and hint of the error for empty data.
_EMPTY = ("the data is empty", "to store an empty image, pass the size 0: --size 0")
