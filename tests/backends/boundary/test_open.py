"""How the core calls `open` of a plugin, and what it makes of the answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, MatchesAll, MatchesStructure

from imagebroker.backends.boundary import Boundary
from imagebroker.backends.declaration import Declaration
from imagebroker.plugin import (
    BackendError,
    BackendHost,
    Image,
    ImageBrokerError,
    ImageRef,
    ImageSource,
    NotAuthorized,
    Options,
    TransferError,
    TransferTimeout,
)
from tests.backends.boundary.probe import LOOPBACK, ORIGIN, REF, Chunks, Probe, guarded
from tests.bounds import HANGS


class TestOpen:
    @pytest.mark.promise("C9")
    def test_context_and_ref_arrive_as_they_are_in_a_thread_of_the_cores_own(self) -> None:
        seen: list[Any] = []

        def answer(context: Any, ref: ImageRef) -> ImageSource:
            seen.append((context, ref, threading.current_thread()))
            return Chunks()

        context = object()
        guarded(answer).open(context, REF)  # type: ignore[arg-type]
        assert_that(seen[0][0], Is(context))
        assert_that(seen[0][1], Is(REF))
        assert seen[0][2] is not threading.current_thread()

    @pytest.mark.promise("C9")
    @pytest.mark.parametrize("answer", [None, Image(ref="x"), "a path", b"bytes", [b"bytes"]])
    def test_an_answer_that_is_no_source_is_a_bug_of_the_plugin_which_is_named(
        self, answer: Any
    ) -> None:
        with pytest.raises(BackendError) as caught:
            guarded(lambda context, ref: answer).open(None, REF)
        assert_that(str(caught.value), MatchesAll(Contains(ORIGIN), Contains("ImageSource")))
        assert_that(caught.value, MatchesStructure.byEquality(retryable=False))
        assert_that(caught.value.hint, Contains("report it"))

    @pytest.mark.promise("C10")
    def test_a_source_without_a_record_is_refused_and_closed(self) -> None:
        source = Chunks()
        del source.image
        with pytest.raises(BackendError, match="without an Image"):
            guarded(lambda context, ref: source).open(None, REF)
        assert_that(source.closed, Equals(1))

    @pytest.mark.promise("C10")
    @pytest.mark.parametrize(
        "claims",
        [{"size": -1}, {"size": "100"}, {"size": 1.5}, {"checksums": None}, {"checksums": "sha256"},
         {"ref": None}],
    )  # fmt: skip
    def test_claims_that_cannot_be_are_refused(self, claims: Mapping[str, Any]) -> None:
        source = Chunks()
        source.image = Image(**{"ref": REF.text, **claims})
        with pytest.raises(BackendError) as caught:
            guarded(lambda context, ref: source).open(None, REF)
        assert_that(str(caught.value), Contains(ORIGIN))

    @pytest.mark.promise("C9")
    def test_the_cores_own_errors_pass_as_they_are(self) -> None:
        first = NotAuthorized("no", hint="log in")

        def answer(context: Any, ref: ImageRef) -> Any:
            raise first

        with pytest.raises(NotAuthorized) as caught:
            guarded(answer).open(None, REF)
        assert_that(caught.value, Is(first))

    @pytest.mark.promise("C18")
    @pytest.mark.parametrize(
        ("error", "becomes", "retryable"),
        [
            (ConnectionResetError("reset"), TransferError, True),
            (BrokenPipeError("pipe"), TransferError, True),
            (TimeoutError("late"), TransferError, True),
            (EOFError("end"), TransferError, True),
            (OSError(5, "odd"), BackendError, False),
            (ValueError("odd"), BackendError, False),
            (KeyError("odd"), BackendError, False),
            (NotImplementedError(), BackendError, False),
        ],
    )
    def test_foreign_exceptions_become_ours_name_the_plugin_and_keep_their_cause(
        self, error: Exception, becomes: type[ImageBrokerError], retryable: bool
    ) -> None:
        def answer(context: Any, ref: ImageRef) -> Any:
            raise error

        with pytest.raises(becomes) as caught:
            guarded(answer).open(None, REF)
        assert_that(caught.value.retryable, Is(retryable))
        assert_that(caught.value.__cause__, Is(error))
        assert_that(str(caught.value), MatchesAll(Contains("probe"), Contains("open")))

    @pytest.mark.promise("C18")
    @pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), SystemExit(3)])
    def test_interrupts_and_memory_errors_pass(self, error: BaseException) -> None:
        def answer(context: Any, ref: ImageRef) -> Any:
            raise error

        with pytest.raises(type(error)):
            guarded(answer).open(None, REF)

    @pytest.mark.promise("C30")
    def test_an_open_that_does_not_answer_ends_in_time_and_a_late_source_is_closed(self) -> None:
        gate, closed = threading.Event(), threading.Event()

        class Late(Chunks):
            def close(self) -> None:
                super().close()
                closed.set()

        source = Late()

        def answer(context: Any, ref: ImageRef) -> ImageSource:
            gate.wait(HANGS)
            return source

        with pytest.raises(TransferTimeout) as caught:
            guarded(answer).open(None, REF, timeout=0.05)
        assert_that(bool(caught.value.hint), Is(True))
        gate.set()
        assert_that(closed.wait(HANGS), Is(True))
        assert_that(source.closed, Equals(1))

    @pytest.mark.promise("C30")
    def test_what_a_call_that_hangs_has_connected_is_shut_down(self) -> None:
        ended = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as silent:
            host = BackendHost(name="probe", options=Options({}), policy=LOOPBACK)

            class Hanging(Probe):
                def answer(self, context: Any, ref: ImageRef) -> Any:
                    port = silent.getsockname()[1]
                    with self.host.connect("127.0.0.1", port) as sock:
                        sock.recv(1)  # nothing ever comes
                    ended.set()
                    raise TransferError("cut")

            with pytest.raises(TransferTimeout):
                Boundary(Declaration.of(Hanging), host, ORIGIN).open(None, REF, timeout=0.05)
            assert_that(ended.wait(HANGS), Is(True))
