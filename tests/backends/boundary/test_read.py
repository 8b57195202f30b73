"""How the core reads a source, and that it takes no more than it asked for."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, IsInstance, LessThan, MatchesStructure

from imagebroker.backends.opened_source import READ_AHEAD, Flow, OpenedSource
from imagebroker.plugin import (
    BackendError,
    Buffer,
    ImageBrokerError,
    ImageSource,
    TooLarge,
    TransferError,
)
from tests.backends.boundary.probe import ORIGIN, REF, Chunks, guarded
from tests.conftest import Scripted


def opened(source: ImageSource, **how: float) -> OpenedSource:
    return guarded(lambda context, ref: source, **how).open(None, REF)


def taken(flow: Flow, into: list[Buffer] | None = None) -> list[Buffer]:
    """All chunks of a flow; raises what the source raised."""
    chunks: list[Buffer] = [] if into is None else into
    while (batch := flow.take(5.0)) is not None:
        chunks += batch
    return chunks


class TestRead:
    @pytest.mark.promise("C13")
    def test_start_and_stop_arrive_as_they_are(self) -> None:
        source = Chunks(b"2345")
        assert_that(taken(opened(source).read(2, 6)), Equals([b"2345"]))
        assert_that(source.asked, Equals([(2, 6)]))

    @pytest.mark.promise("C14")
    def test_the_chunk_is_passed_on_without_a_copy(self) -> None:
        chunk = bytes(100_000)
        assert_that(taken(opened(Chunks(chunk)).read())[0], Is(chunk))

    @pytest.mark.promise("C14")
    def test_any_contiguous_buffer_will_do_and_is_counted_in_bytes(self) -> None:
        numbers = memoryview(bytes(range(8))).cast("I")
        source = Chunks(b"ab", bytearray(b"cd"), memoryview(b"ef"), numbers, b"", size=14)
        chunks = taken(opened(source).read())
        assert_that(b"".join(chunks), Equals(b"abcdef" + bytes(range(8))))
        assert_that([len(chunk) for chunk in chunks], Equals([2, 2, 2, 8]))

    @pytest.mark.promise("C14")
    @pytest.mark.parametrize("chunk", ["text", None, 7, [b"x"]])
    def test_a_chunk_of_another_kind_is_a_bug_of_the_plugin(self, chunk: Any) -> None:
        with pytest.raises(BackendError) as caught:
            taken(opened(Chunks(b"ok", chunk)).read())
        assert_that(str(caught.value), Contains(ORIGIN))
        assert_that(caught.value.retryable, Is(False))

    @pytest.mark.promise("C13")
    @pytest.mark.parametrize(
        ("size", "start", "stop", "chunks", "error"),
        [
            (10, 0, None, [b"123456789"], TransferError),
            (10, 0, None, [], TransferError),
            (10, 0, None, [b"12345678901"], TooLarge),
            (10, 0, None, [b"1234567890", b"1"], TooLarge),
            (10, 4, None, [b"56789"], TransferError),
            (None, 2, 6, [b"234"], TransferError),
            (None, 2, 6, [b"23456"], TooLarge),
        ],
    )
    def test_fewer_or_more_bytes_than_were_asked_for_are_an_error(
        self, size: int | None, start: int, stop: int | None, chunks: list[bytes],
        error: type[ImageBrokerError],
    ) -> None:  # fmt: skip
        with pytest.raises(error) as caught:
            taken(opened(Chunks(*chunks, size=size)).read(start, stop))
        assert_that(bool(caught.value.hint), Is(True))

    @pytest.mark.promise("C15")
    def test_what_arrived_before_an_error_is_handed_over_first(self) -> None:
        flow = opened(Chunks(b"one", b"two", ValueError("odd"))).read()
        received: list[Buffer] = []
        with pytest.raises(BackendError) as caught:
            taken(flow, into=received)
        assert_that(received, Equals([b"one", b"two"]))
        assert_that(caught.value.__cause__, IsInstance(ValueError))

    @pytest.mark.promise("C14", "memory")
    def test_a_read_is_never_far_ahead_of_its_consumer(self) -> None:
        produced = itertools.count()
        chunk = bytes(1 << 20)

        class Endless(Chunks):
            def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
                while True:
                    next(produced)
                    yield chunk

        source = opened(Endless())
        flow = source.read()
        while flow.held + len(chunk) <= READ_AHEAD:
            flow.join(0.001)
        flow.join(0.05)
        made = next(produced)
        source.close()
        assert_that(made, LessThan(READ_AHEAD // len(chunk) + 2))

    @pytest.mark.promise("C17")
    def test_close_comes_from_another_thread_and_ends_a_read_that_waits(self) -> None:
        ended = threading.Event()

        class Waiting(Chunks):
            gate = threading.Event()

            def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
                yield b"first"
                self.gate.wait(30)
                ended.set()

            def close(self) -> None:
                super().close()
                self.gate.set()

        source = Waiting()
        guarded_source = opened(source)
        flow = guarded_source.read()
        assert_that(flow.take(5.0), Equals([b"first"]))
        guarded_source.close()
        guarded_source.close()
        assert_that(ended.is_set(), Is(True))
        assert_that(flow.is_alive(), Is(False))
        assert_that(source.closed, Equals(1))

    @pytest.mark.promise("C17")
    def test_a_read_that_ignores_close_is_left_behind_and_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        gate = threading.Event()

        class Stubborn(Chunks):
            def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
                gate.wait(30)
                yield b"too late"

        source = opened(Stubborn(), grace=0.05)
        flow = source.read()
        source.close()
        assert_that(caplog.text, Contains("still running after the source was closed"))
        assert_that(flow, MatchesStructure.byEquality(daemon=True))
        gate.set()
        flow.join(5)

    @pytest.mark.promise("C17")
    def test_an_error_in_close_is_logged_and_goes_no_further(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Clumsy(Chunks):
            def close(self) -> None:
                raise ValueError("close failed")

        opened(Clumsy()).close()
        assert_that(caplog.text, Contains("close failed"))

    @pytest.mark.promise("C12")
    def test_seekable_may_be_lost_after_open(self) -> None:
        source = Chunks()
        source.seekable = True
        guarded_source = opened(source)
        assert_that(guarded_source.seekable, Is(True))
        source.seekable = False
        assert_that(guarded_source.seekable, Is(False))

    @pytest.mark.promise("C15")
    def test_after_two_failures_without_progress_the_image_is_opened_again(
        self, scripted: Scripted, tmp_path: Path
    ) -> None:
        breaks: list[Any] = [(1500, None), (1500, None), (1500, None)]
        ref, script = scripted.image(bytes(4000), version="v1", breaks=breaks)
        scripted.broker.download(None, ref, tmp_path / "image")
        assert_that(script.reads, Equals([0, 1500, 1500, 1500]))
        assert_that(script.opened, Equals(3))  # the first failure alone keeps the source
