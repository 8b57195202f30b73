"""A file object in non-blocking mode is a destination like any other: it is waited for."""

from __future__ import annotations

import io
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

from imagebroker.exceptions import DestinationError
from imagebroker.transfer.store.file_object import FileObject

DATA = os.urandom(1_000_000)


def pipe(buffering: int) -> tuple[Any, Any]:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    return open(read_end, "rb"), open(write_end, "wb", buffering)


def sockets() -> tuple[Any, Any]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        return theirs.makefile("rb"), ours.makefile("wb")


PAIRS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "raw pipe": lambda: pipe(0),
    "buffered pipe": lambda: pipe(-1),
    "socket": sockets,
}


@pytest.mark.promise("upload-waits-for-its-data")
@pytest.mark.parametrize("kind", PAIRS)
def test_every_byte_arrives_through(kind: str) -> None:
    read_end, write_end = PAIRS[kind]()
    received: list[bytes] = []
    with read_end:
        drain = threading.Thread(target=lambda: received.append(read_end.read()))
        with write_end, FileObject(write_end) as target:
            drain.start()
            target.write(DATA)
            target.commit()
        drain.join()
    assert_that(received[0] == DATA, Is(True))


class Reluctant(io.RawIOBase):
    """Takes a few bytes, and every other time none."""

    def __init__(self, refusal: Any) -> None:
        super().__init__()
        self.taken, self._refusal, self._calls = bytearray(), refusal, 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int | None:
        self._calls += 1
        if self._calls % 2:
            if isinstance(self._refusal, Exception):
                raise self._refusal
            return self._refusal  # type: ignore[no-any-return]
        self.taken += bytes(data[:100])
        return min(len(data), 100)


@pytest.mark.parametrize(
    "refusal", [None, 0, BlockingIOError(11, "again"), InterruptedError(4, "call")]
)
def test_an_object_without_a_descriptor_is_asked_again(refusal: Any) -> None:
    file = Reluctant(refusal)
    with FileObject(file) as target:  # type: ignore[arg-type]
        target.write(DATA[:1000])
        target.commit()
    assert_that(bytes(file.taken), Equals(DATA[:1000]))


@pytest.mark.parametrize("kind", ["raw pipe", "buffered pipe", "object"])
def test_what_takes_nothing_for_too_long_ends_the_download(kind: str) -> None:
    read_end, write_end = (io.BytesIO(), Never()) if kind == "object" else PAIRS[kind]()
    with pytest.raises(DestinationError) as caught, FileObject(write_end, patience=0.2) as target:
        target.write(DATA)
        target.commit()
    assert_that(str(caught.value), Contains("accepts no more bytes"))
    read_end.close()
    with suppress(BrokenPipeError):  # what a buffer still has
        write_end.close()


class Never(Reluctant):
    def __init__(self) -> None:
        super().__init__(None)

    def write(self, data: Any) -> None:
        return None
