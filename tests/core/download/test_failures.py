"""Whatever ends a download early ends it in time, is reported, and leaves nothing."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, MatchesStructure

from imagebroker.exceptions import (
    Cancelled,
    ImageBrokerError,
    ImageNotFound,
    TransferTimeout,
    VerificationError,
)
from imagebroker.transfer.limits import Progress
from tests.bounds import in_time
from tests.conftest import Scripted
from tests.core.download.destination import DATA, Destination


class TestPath:
    def test_a_missing_image_leaves_nothing(self, scripted: Scripted, dest: Destination) -> None:
        with pytest.raises(ImageNotFound):
            scripted.broker.download(None, "scripted://host/missing", dest.path)
        dest.assert_untouched()

    @pytest.mark.promise("C18")
    @pytest.mark.parametrize(
        "error", [ValueError("odd"), KeyError("odd"), RecursionError(), OSError(5, "odd"),
                  StopIteration(), UnicodeError("odd")]
    )  # fmt: skip
    def test_a_foreign_exception_is_wrapped_names_the_plugin_and_keeps_its_cause(
        self, scripted: Scripted, dest: Destination, error: Exception
    ) -> None:
        ref, _ = scripted.image(DATA, breaks=[(1500, error)])
        with pytest.raises(ImageBrokerError) as caught:
            scripted.broker.download(None, ref, dest.path)
        assert_that(str(caught.value), Contains("imagebroker-scripted 1.0"))
        assert caught.value.__cause__ is not None
        dest.assert_untouched()

    def test_a_memory_error_passes(self, scripted: Scripted, dest: Destination) -> None:
        ref, _ = scripted.image(DATA, breaks=[(1500, MemoryError())])
        with pytest.raises(MemoryError):
            scripted.broker.download(None, ref, dest.path)
        dest.assert_untouched()

    @pytest.mark.promise("C17")
    def test_an_error_in_close_is_logged_and_does_not_hide_the_first_one(
        self, scripted: Scripted, dest: Destination, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> None:
            raise ValueError("close failed")

        ref, _ = scripted.image(DATA, breaks=[(1, VerificationError("first"))], on_close=fail)
        with pytest.raises(VerificationError, match="first"):
            scripted.broker.download(None, ref, dest.path)
        assert_that(caplog.text, Contains("close failed"))
        dest.assert_untouched()

    @pytest.mark.promise("C14", "nothing-left", "time-limits")
    @pytest.mark.parametrize("by", ["stall", "deadline", "cancel"])
    def test_a_source_that_never_yields_again_ends_in_time(
        self, scripted: Scripted, dest: Destination, by: str
    ) -> None:
        gate = threading.Event()
        ref, _ = scripted.image(
            DATA,
            before_chunk=lambda offset: gate.wait(30) and None if offset >= 3000 else None,
            on_close=gate.set,
        )
        limits: dict[str, Any] = {
            "stall": {"stall_timeout": 0.2},
            "deadline": {"deadline": 0.2},
        }.get(by, {"cancel": CancelledAfter(3)})
        began = time.monotonic()
        with pytest.raises(Cancelled if by == "cancel" else TransferTimeout):
            scripted.broker.download(None, ref, dest.path, retries=0, **limits)
        assert_that(time.monotonic() - began, in_time(1))
        dest.assert_untouched()

    @pytest.mark.promise("C14", "time-limits")
    def test_a_trickle_below_the_minimum_rate_ends_in_time(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        tick = threading.Event()
        ref, _ = scripted.image(
            DATA, chunk=1, before_chunk=lambda _: tick.wait(0.02) and None, on_close=tick.set
        )
        with pytest.raises(TransferTimeout, match="less than"):
            scripted.broker.download(
                None, ref, dest.path, retries=0, stall_timeout=0.3, min_rate=1000
            )
        dest.assert_untouched()

    def test_progress_is_told_in_the_callers_thread_and_may_end_the_call(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, _ = scripted.image(DATA)
        told: list[tuple[Progress, threading.Thread]] = []
        scripted.broker.download(
            None, ref, dest.path, progress=lambda p: told.append((p, threading.current_thread()))
        )
        assert_that({thread for _, thread in told}, Equals({threading.current_thread()}))
        assert_that(
            told[-1][0],
            MatchesStructure.byEquality(phase="done", done=len(DATA), total=len(DATA), retries=0),
        )

        def refuse(progress: Progress) -> None:
            raise LookupError("enough")

        with pytest.raises(LookupError):
            scripted.broker.download(None, ref, dest.path, progress=refuse)
        dest.assert_complete()

    @pytest.mark.promise("nothing-left")
    def test_a_keyboard_interrupt_propagates_and_leaves_nothing(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, _ = scripted.image(DATA)

        def interrupt(progress: Progress) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            scripted.broker.download(None, ref, dest.path, progress=interrupt)
        dest.assert_untouched()


class CancelledAfter:
    """True from the n-th question on."""

    def __init__(self, questions: int) -> None:
        self._left = questions

    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0
