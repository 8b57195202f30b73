"""What `create` reads from may have nothing yet, in many ways, and none of them is its end."""

from __future__ import annotations

import io
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

from imagebroker.exceptions import UploadFailed
from imagebroker.plugin import ImageData

DATA = os.urandom(200_000)
#: What has arrived when the reading begins, and what comes when it waits.
FIRST, REST = DATA[:50_000], DATA[50_000:]


def sent(data: ImageData) -> bytes:
    return b"".join(data)


@contextmanager
def fed(write_end: BinaryIO) -> Iterator[threading.Event]:
    """The rest is written once the event is set, then the end."""
    asked = threading.Event()

    def feed() -> None:
        with write_end:
            write_end.write(FIRST)
            write_end.flush()
            asked.wait(30)
            write_end.write(REST)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield asked
    finally:
        asked.set()
        thread.join()


class Watched:
    """Passes on to a file, and sets an event as soon as that has nothing."""

    def __init__(self, file: Any, asked: threading.Event) -> None:
        self._file, self._asked = file, asked

    def read(self, size: int) -> Any:
        try:
            found = self._file.read(size)
        except OSError:
            self._asked.set()
            raise
        if found is None:
            self._asked.set()
        return found

    def fileno(self) -> int:
        number: int = self._file.fileno()
        return number


def pipe(buffering: int) -> tuple[BinaryIO, BinaryIO]:
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    return open(read_end, "rb", buffering), open(write_end, "wb")  # type: ignore[return-value]


def sockets() -> tuple[BinaryIO, BinaryIO]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        # Refused by `makefile` itself, and found in the wild: the socket changes afterwards.
        return ours.makefile("rb"), theirs.makefile("wb")


PAIRS: dict[str, Callable[[], tuple[BinaryIO, BinaryIO]]] = {
    "raw pipe": lambda: pipe(0),
    "buffered pipe": lambda: pipe(-1),
    "socket": sockets,
}


@pytest.mark.promise("security-31", "upload-waits-for-its-data")
@pytest.mark.parametrize("kind", PAIRS)
def test_a_file_in_non_blocking_mode_is_read_to_its_end(kind: str) -> None:
    read_end, write_end = PAIRS[kind]()
    with read_end, fed(write_end) as asked:
        assert_that(sent(ImageData(Watched(read_end, asked))) == DATA, Is(True))


class Script:
    """An object whose `read` answers what it is told, and raises what is an error."""

    def __init__(self, *answers: Any) -> None:
        self._answers = iter(answers)

    def read(self, size: int) -> Any:
        answer = next(self._answers, b"")
        if isinstance(answer, Exception):
            raise answer
        return answer


class SSLWantReadError(OSError):
    """As a TLS socket of a third party calls it."""


@pytest.mark.parametrize(
    "nothing", [None, BlockingIOError(11, "again"), InterruptedError(4, "call"), SSLWantReadError()]
)
def test_an_object_without_a_descriptor_is_asked_again(nothing: Any) -> None:
    data = ImageData(Script(nothing, b"one", nothing, nothing, b"two"))
    assert_that(sent(data), Equals(b"onetwo"))


def test_an_iterator_that_yields_nothing_in_between_goes_on() -> None:
    data = ImageData(iter([b"one", b"", None, b"two", None]))
    assert_that(sent(data), Equals(b"onetwo"))


@pytest.mark.parametrize(
    "piece",
    [bytearray(DATA), memoryview(DATA), memoryview(DATA).cast("H"), memoryview(DATA * 2)[::2]],
)
def test_whatever_holds_bytes_is_taken_and_cut_to_size(piece: Any) -> None:
    chunks = list(ImageData(Script(piece)))
    assert_that(b"".join(chunks) == bytes(piece), Is(True))
    assert_that(max(map(len, chunks)) <= 65536, Is(True))


class OnlyReadinto:
    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self._asked = 0

    def readinto(self, buffer: Any) -> int | None:
        self._asked += 1
        return self._file.readinto(buffer) if self._asked % 2 else None


def test_an_object_with_readinto_alone_is_enough() -> None:
    assert_that(sent(ImageData(OnlyReadinto(DATA))) == DATA, Is(True))


class BadReadinto:
    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def readinto(self, buffer: Any) -> Any:
        return self._answer


@pytest.mark.parametrize(
    "source",
    [
        Script("text"), Script(7), iter(["text"]), iter([65]), BadReadinto(-1), BadReadinto(1 << 20),
        BadReadinto("3"),
    ],
)  # fmt: skip
def test_what_is_not_bytes_fails_and_does_not_end(source: Any) -> None:
    with pytest.raises(UploadFailed) as caught:
        sent(ImageData(source))
    assert_that(caught.value.retryable, Is(False))
    assert_that(str(caught.value), Contains("returned"))


def silent_pipe() -> Any:
    return pipe(0)[0]


@pytest.mark.parametrize("kind", ["pipe", "object", "iterator"])
def test_what_stays_silent_fails_after_the_stall_timeout_and_may_be_tried_again(kind: str) -> None:
    read_end, write_end = pipe(0)
    source: Any = {
        "pipe": read_end, "object": Script(b"x", *[None] * 10_000), "iterator": iter([None] * 10_000)
    }[kind]  # fmt: skip
    with read_end, write_end, pytest.raises(UploadFailed) as caught:
        sent(ImageData(source, stall_timeout=0.2))
    assert_that(caught.value.retryable, Is(True))
    assert_that(caught.value.hint, Contains("stall_timeout"))


def test_a_socket_whose_own_timeout_runs_out_may_be_tried_again() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.05)
        theirs.send(b"begin")
        with ours.makefile("rb", buffering=0) as file, pytest.raises(UploadFailed) as caught:
            sent(ImageData(file))
    assert_that(caught.value.retryable, Is(True))


def test_an_iterator_that_failed_is_not_asked_again() -> None:
    def failing() -> Iterator[bytes]:
        yield b"begin"
        raise BlockingIOError(11, "again")

    with pytest.raises(UploadFailed):
        sent(ImageData(failing()))
