"""How the core calls a plugin, and what it makes of the answers (docs/contract.md)."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg
from testtools.assertions import assert_that
from testtools.matchers import (
    Contains,
    Equals,
    Is,
    IsInstance,
    LessThan,
    MatchesAll,
    MatchesStructure,
)

import imagebroker
from imagebroker.backends import boundary
from imagebroker.backends.boundary import READ_AHEAD, Boundary, Flow, OpenedSource
from imagebroker.backends.declaration import Declaration
from imagebroker.model.reference import parse
from imagebroker.plugin import (
    BackendError,
    BackendHost,
    BackendLoadError,
    Buffer,
    ConfigError,
    Image,
    ImageBackend,
    ImageBrokerError,
    ImageData,
    ImageNotFound,
    ImageQuery,
    ImageRef,
    ImageSource,
    InvalidImageRef,
    Limits,
    NotAuthorized,
    Options,
    PolicyViolation,
    RefForm,
    TooLarge,
    TransferError,
    TransferTimeout,
    UnsupportedOperation,
    UploadFailed,
)
from imagebroker.policy.addresses import Policy, networks
from tests.conftest import Scripted
from tests.distributions import install, simple

UUID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
REF = parse(f"probe:{UUID}")
ORIGIN = "imagebroker-probe 1.0"
LOOPBACK = Policy(allowed_networks=networks(["127.0.0.0/8"]))


class Probe(ImageBackend):
    """Answers `open` with whatever a test gives it."""

    api_version = 1
    name = "probe"
    ref_form = RefForm(id=True)

    def open(self, context: Any, ref: ImageRef) -> Any:
        return self.answer(context, ref)

    def answer(self, context: Any, ref: ImageRef) -> Any:
        raise NotImplementedError


class Chunks(ImageSource):
    """A source of given chunks."""

    def __init__(self, *chunks: Any, size: int | None = None) -> None:
        self.image = Image(ref=REF.text, size=size)
        self.chunks: Any = chunks
        self.asked: list[tuple[int, int | None]] = []
        self.closed = 0

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        self.asked.append((start, stop))
        for chunk in self.chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    def close(self) -> None:
        self.closed += 1


def guarded(answer: Callable[[Any, ImageRef], Any], **limits: float) -> Boundary:
    """A boundary around a backend whose `open` is `answer`."""
    host = BackendHost(name="probe", options=Options({}), policy=LOOPBACK, limits=Limits(**limits))
    probe = type("Probe", (Probe,), {"answer": staticmethod(answer)})
    return Boundary(Declaration.of(probe), host, ORIGIN)


def opened(source: ImageSource) -> OpenedSource:
    return guarded(lambda context, ref: source).open(None, REF)


def taken(flow: Flow, into: list[Buffer] | None = None) -> list[Buffer]:
    """All chunks of a flow; raises what the source raised."""
    chunks: list[Buffer] = [] if into is None else into
    while (batch := flow.take(5.0)) is not None:
        chunks += batch
    return chunks


class TestOpen:
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

    @pytest.mark.parametrize("answer", [None, Image(ref="x"), "a path", b"bytes", [b"bytes"]])
    def test_an_answer_that_is_no_source_is_a_bug_of_the_plugin_which_is_named(
        self, answer: Any
    ) -> None:
        with pytest.raises(BackendError) as caught:
            guarded(lambda context, ref: answer).open(None, REF)
        assert_that(str(caught.value), MatchesAll(Contains(ORIGIN), Contains("ImageSource")))
        assert_that(caught.value, MatchesStructure.byEquality(retryable=False))
        assert_that(caught.value.hint, Contains("report it"))

    def test_a_source_without_a_record_is_refused_and_closed(self) -> None:
        source = Chunks()
        del source.image
        with pytest.raises(BackendError, match="without an Image"):
            guarded(lambda context, ref: source).open(None, REF)
        assert_that(source.closed, Equals(1))

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

    def test_the_cores_own_errors_pass_as_they_are(self) -> None:
        first = NotAuthorized("no", hint="log in")

        def answer(context: Any, ref: ImageRef) -> Any:
            raise first

        with pytest.raises(NotAuthorized) as caught:
            guarded(answer).open(None, REF)
        assert_that(caught.value, Is(first))

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

    @pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), SystemExit(3)])
    def test_interrupts_and_memory_errors_pass(self, error: BaseException) -> None:
        def answer(context: Any, ref: ImageRef) -> Any:
            raise error

        with pytest.raises(type(error)):
            guarded(answer).open(None, REF)

    def test_an_open_that_does_not_answer_ends_in_time_and_a_late_source_is_closed(self) -> None:
        gate, closed = threading.Event(), threading.Event()

        class Late(Chunks):
            def close(self) -> None:
                super().close()
                closed.set()

        source = Late()

        def answer(context: Any, ref: ImageRef) -> ImageSource:
            gate.wait(30)
            return source

        with pytest.raises(TransferTimeout) as caught:
            guarded(answer).open(None, REF, timeout=0.05)
        assert_that(bool(caught.value.hint), Is(True))
        gate.set()
        assert_that(closed.wait(5), Is(True))
        assert_that(source.closed, Equals(1))

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
            assert_that(ended.wait(5), Is(True))


class TestRead:
    def test_start_and_stop_arrive_as_they_are(self) -> None:
        source = Chunks(b"2345")
        assert_that(taken(opened(source).read(2, 6)), Equals([b"2345"]))
        assert_that(source.asked, Equals([(2, 6)]))

    def test_the_chunk_is_passed_on_without_a_copy(self) -> None:
        chunk = bytes(100_000)
        assert_that(taken(opened(Chunks(chunk)).read())[0], Is(chunk))

    def test_any_contiguous_buffer_will_do_and_is_counted_in_bytes(self) -> None:
        numbers = memoryview(bytes(range(8))).cast("I")
        source = Chunks(b"ab", bytearray(b"cd"), memoryview(b"ef"), numbers, b"", size=14)
        chunks = taken(opened(source).read())
        assert_that(b"".join(chunks), Equals(b"abcdef" + bytes(range(8))))
        assert_that([len(chunk) for chunk in chunks], Equals([2, 2, 2, 8]))

    @pytest.mark.parametrize("chunk", ["text", None, 7, [b"x"]])
    def test_a_chunk_of_another_kind_is_a_bug_of_the_plugin(self, chunk: Any) -> None:
        with pytest.raises(BackendError) as caught:
            taken(opened(Chunks(b"ok", chunk)).read())
        assert_that(str(caught.value), Contains(ORIGIN))
        assert_that(caught.value.retryable, Is(False))

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

    def test_what_arrived_before_an_error_is_handed_over_first(self) -> None:
        flow = opened(Chunks(b"one", b"two", ValueError("odd"))).read()
        received: list[Buffer] = []
        with pytest.raises(BackendError) as caught:
            taken(flow, into=received)
        assert_that(received, Equals([b"one", b"two"]))
        assert_that(caught.value.__cause__, IsInstance(ValueError))

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
        while flow._held + len(chunk) <= READ_AHEAD:
            flow.join(0.001)
        flow.join(0.05)
        made = next(produced)
        source.close()
        assert_that(made, LessThan(READ_AHEAD // len(chunk) + 2))

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

    def test_a_read_that_ignores_close_is_left_behind_and_logged(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(boundary, "GRACE", 0.05)
        gate = threading.Event()

        class Stubborn(Chunks):
            def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
                gate.wait(30)
                yield b"too late"

        source = opened(Stubborn())
        flow = source.read()
        source.close()
        assert_that(caplog.text, Contains("does not end after close"))
        assert_that(flow, MatchesStructure.byEquality(daemon=True))
        gate.set()
        flow.join(5)

    def test_an_error_in_close_is_logged_and_goes_no_further(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Clumsy(Chunks):
            def close(self) -> None:
                raise ValueError("close failed")

        opened(Clumsy()).close()
        assert_that(caplog.text, Contains("close failed"))

    def test_seekable_may_be_lost_after_open(self) -> None:
        source = Chunks()
        source.seekable = True
        guarded_source = opened(source)
        assert_that(guarded_source.seekable, Is(True))
        source.seekable = False
        assert_that(guarded_source.seekable, Is(False))

    def test_after_two_failures_without_progress_the_image_is_opened_again(
        self, scripted: Scripted, tmp_path: Path
    ) -> None:
        breaks: list[Any] = [(1500, None), (1500, None), (1500, None)]
        ref, script = scripted.image(bytes(4000), version="v1", breaks=breaks)
        scripted.broker.download(None, ref, tmp_path / "image")
        assert_that(script.reads, Equals([0, 1500, 1500, 1500]))
        assert_that(script.opened, Equals(3))  # the first failure alone keeps the source


class RecordingBackend(ImageBackend):
    """Every verb: notes what it was called with, and answers what a test prepared."""

    api_version = 1
    name = "recording"
    ref_form = RefForm(id=True)
    options = (cfg.StrOpt("colour", default="red"), cfg.IntOpt("depth", default=1))
    require_checksum = True
    made: list[RecordingBackend] = []
    calls: list[tuple[Any, ...]] = []
    answers: dict[str, Any] = {}

    def __init__(self, host: BackendHost) -> None:
        super().__init__(host)
        self.made.append(self)

    def _answer(self, verb: str, *arguments: Any) -> Any:
        self.calls.append((verb, *arguments))
        answer = self.answers.get(verb)
        if isinstance(answer, Exception):
            raise answer
        return answer(*arguments) if callable(answer) else answer

    def open(self, context: Any, ref: ImageRef) -> Any:
        return self._answer("open", context, ref)

    def get_all(self, context: Any, query: ImageQuery) -> Any:
        return self._answer("get_all", context, query)

    def create(self, context: Any, image: Image, data: ImageData | None) -> Any:
        return self._answer("create", context, image, data)

    def update(
        self, context: Any, ref: ImageRef, changes: Any, data: Any, purge_props: bool
    ) -> Any:
        return self._answer("update", context, ref, changes, data, purge_props)

    def delete(self, context: Any, ref: ImageRef) -> Any:
        return self._answer("delete", context, ref)

    def import_image(self, context: Any, ref: ImageRef, *, url: Any, stores: Any) -> Any:
        return self._answer("import_image", context, ref, url, stores)

    def purge(self, context: Any, older_than: float, dry_run: bool) -> Any:
        return self._answer("purge", context, older_than, dry_run)

    def close(self) -> None:
        self._answer("close")


@pytest.fixture
def recording(on_path: Path, make_broker: Callable[..., imagebroker.Broker]) -> imagebroker.Broker:
    """A broker whose default backend records its calls."""
    name = f"{__name__}:RecordingBackend"
    install(on_path, "imagebroker-recording", {"recording": name})
    for store in (RecordingBackend.made, RecordingBackend.calls, RecordingBackend.answers):
        store.clear()
    return make_broker("""
        [imagebroker]
        enabled_schemes = recording
        default_backend = recording
        [backend:recording]
        colour = blue
        [backend:recording:east]
        depth = 7
        endpoint = https://east.example/images
        """)


CALLS = RecordingBackend.calls
ANSWERS = RecordingBackend.answers


class TestVerbs:
    def test_get_is_derived_from_open_and_closes_the_source(
        self, recording: imagebroker.Broker
    ) -> None:
        ANSWERS["open"] = source = Chunks(size=3)
        assert_that(recording.get(None, UUID).size, Equals(3))
        assert_that(source.closed, Equals(1))

    def test_a_verb_that_is_left_out_is_unsupported_and_changes_nothing(
        self, scripted: Scripted
    ) -> None:
        ref, script = scripted.image(b"bytes")
        broker = scripted.broker
        for verb in (
            lambda: list(broker.get_all(None, backend="scripted")),
            lambda: broker.create(None, {}, b"x", backend="scripted"),
            lambda: broker.update(None, ref, {"name": "x"}),
            lambda: broker.delete(None, ref),
            lambda: broker.import_image(None, ref, url="http://h/x"),
            lambda: broker.purge(None, backend="scripted"),
        ):
            with pytest.raises(UnsupportedOperation) as caught:
                verb()
            assert_that(str(caught.value), Contains("scripted"))
        assert_that(script.opened, Equals(0))

    def test_capabilities_are_the_methods_that_the_class_overrides(
        self, recording: imagebroker.Broker, scripted: Scripted
    ) -> None:
        everything = recording.resolve(UUID).capabilities
        assert_that(
            everything,
            Equals(("download", "get_all", "create", "update", "delete", "import_image", "purge")),
        )
        ref, _ = scripted.image(b"x")
        assert_that(scripted.broker.resolve(ref).capabilities, Equals(("download",)))

    def test_images_are_listed_as_they_are_asked_for(self, recording: imagebroker.Broker) -> None:
        yielded: list[int] = []

        def pages(context: Any, query: ImageQuery) -> Iterator[Image]:
            for number in range(1000):
                yielded.append(number)
                yield Image(ref=f"recording:{number}", name=str(number))

        ANSWERS["get_all"] = pages
        images = recording.get_all(None, filters={"name": "x"}, limit=5, sort_dir="asc")
        assert_that([image.name for image in itertools.islice(images, 3)], Equals(["0", "1", "2"]))
        assert_that(yielded, Equals([0, 1, 2]))
        query = CALLS[0][2]
        assert_that(
            query,
            MatchesStructure.byEquality(
                filters={"name": "x"}, limit=5, sort_key="created_at", sort_dir="asc"
            ),
        )

    @pytest.mark.parametrize("verb", ["get_all", "create", "update", "purge"])
    @pytest.mark.parametrize("answer", [None, {"id": UUID}, "an image"])
    def test_an_answer_that_is_no_record_is_a_bug_of_the_plugin(
        self, recording: imagebroker.Broker, verb: str, answer: Any
    ) -> None:
        ANSWERS[verb] = [answer] if verb in ("get_all", "purge") else answer
        calls: dict[str, Callable[[], Any]] = {
            "get_all": lambda: list(recording.get_all(None)),
            "create": lambda: recording.create(None, {}),
            "update": lambda: recording.update(None, UUID, {}),
            "purge": lambda: recording.purge(None),
        }
        with pytest.raises(BackendError) as caught:
            calls[verb]()
        assert_that(
            str(caught.value), MatchesAll(Contains("imagebroker-recording 1.0"), Contains(verb))
        )

    def test_create_gets_a_record_with_the_fields_that_are_set_and_the_data(
        self, recording: imagebroker.Broker
    ) -> None:
        def store(context: Any, image: Image, data: ImageData) -> Image:
            sent = b"".join(data)
            return Image(ref=image.ref, id=UUID, size=len(sent), checksums=data.checksums)

        ANSWERS["create"] = store
        context = object()
        info = {"id": UUID, "name": "x", "tags": ["a"], "visibility": None}
        recording.create(context, info, b"bytes")  # type: ignore[arg-type]
        _, got_context, image, data = CALLS[0]
        assert_that(got_context, Is(context))
        assert_that(
            image,
            MatchesStructure.byEquality(
                ref=f"recording:{UUID}",
                id=UUID,
                name="x",
                tags=("a",),
                visibility=None,
                status=None,
            ),
        )
        assert_that(data, MatchesStructure.byEquality(size=5, rewindable=True, complete=True))

    def test_update_gets_the_changes_with_none_for_what_is_removed(
        self, recording: imagebroker.Broker
    ) -> None:
        ANSWERS["update"] = Image(ref=f"recording:{UUID}")
        recording.update(None, UUID, {"name": None, "properties": {"a": "1"}}, purge_props=True)
        _, _, ref, changes, data, purge_props = CALLS[0]
        assert_that(ref, MatchesStructure.byEquality(text=f"recording:{UUID}", id=UUID))
        assert_that(changes, Equals({"name": None, "properties": {"a": "1"}}))
        assert_that((data, purge_props), Equals((None, True)))

    def test_delete_gets_the_ref_and_a_missing_image_is_told(
        self, recording: imagebroker.Broker
    ) -> None:
        recording.delete(None, UUID)
        assert_that(CALLS[0][2].id, Equals(UUID))
        ANSWERS["delete"] = ImageNotFound("no such image")
        with pytest.raises(ImageNotFound):
            recording.delete(None, UUID)

    @pytest.mark.parametrize(
        "stored", [{"size": 4}, {"size": 5, "checksums": {"sha256": "0" * 64}}, {"unread": True}]
    )
    def test_a_stored_record_that_differs_from_what_was_sent_is_a_failed_upload(
        self, recording: imagebroker.Broker, stored: dict[str, Any]
    ) -> None:
        def store(context: Any, image: Image, data: ImageData) -> Image:
            if not stored.get("unread"):
                b"".join(data)
            fields = {name: stored[name] for name in stored if name != "unread"}
            return Image(ref=f"recording:{UUID}", id=UUID, **fields)

        ANSWERS["create"] = store
        with pytest.raises(UploadFailed) as caught:
            recording.create(None, {}, b"bytes")
        assert_that(caught.value.image_id, Equals(UUID))
        assert_that(bool(caught.value.hint), Is(True))

    def test_the_failure_of_the_callers_own_data_is_told_whatever_the_plugin_makes_of_it(
        self, recording: imagebroker.Broker
    ) -> None:
        def broken() -> Iterator[bytes]:
            yield b"some"
            raise LookupError("the source's own error")

        def store(context: Any, image: Image, data: ImageData) -> Image:
            try:
                b"".join(data)
            except Exception as error:
                raise BrokenPipeError("lost by a library") from error
            raise AssertionError("the source cannot be read to its end")

        ANSWERS["create"] = store
        with pytest.raises(UploadFailed, match="the source's own error") as caught:
            recording.create(None, {}, broken())
        assert_that(caught.value.retryable, Is(False))

    def test_what_cannot_be_rewound_is_never_sent_twice(
        self, recording: imagebroker.Broker
    ) -> None:
        def store_twice(context: Any, image: Image, data: ImageData) -> Image:
            b"".join(data)
            b"".join(data)
            raise AssertionError("a generator was read twice")

        ANSWERS["create"] = store_twice
        with pytest.raises(UploadFailed, match="cannot be rewound"):
            recording.create(None, {}, iter([b"once"]))

    def test_data_that_can_be_rewound_is_sent_again_from_its_beginning(
        self, recording: imagebroker.Broker
    ) -> None:
        sent: list[bytes] = []

        def store_twice(context: Any, image: Image, data: ImageData) -> Image:
            next(iter(data))  # an attempt that broke
            sent.append(b"".join(data))
            return Image(ref=f"recording:{UUID}", size=data.sent, checksums=data.checksums)

        ANSWERS["create"] = store_twice
        recording.create(None, {}, bytes(range(256)) * 1000)
        assert_that(sent, Equals([bytes(range(256)) * 1000]))

    def test_create_tells_whether_the_record_is_to_stay(
        self, recording: imagebroker.Broker
    ) -> None:
        for keep in (False, True):
            ANSWERS["create"] = UploadFailed("so it is", image_id=UUID)
            with pytest.raises(UploadFailed):
                recording.create(None, {}, b"bytes", keep_record=keep)
            assert_that(CALLS[-1][3].keep_record, Is(keep))

    def test_an_import_reports_what_it_yields_and_answers_with_the_record(
        self, recording: imagebroker.Broker
    ) -> None:
        ANSWERS["open"] = Chunks(size=30)
        ANSWERS["import_image"] = [0, 10, 30]
        told: list[Any] = []
        image = recording.import_image(None, UUID, stores=["a", "b"], progress=told.append)
        assert_that(image.size, Equals(30))
        _, _, ref, url, stores = next(call for call in CALLS if call[0] == "import_image")
        assert_that((ref.id, url, stores), Equals((UUID, None, ("a", "b"))))
        assert_that((told[0].done, told[0].total), Equals((0, 30)))
        assert_that((told[-1].phase, told[-1].done), Equals(("done", 30)))

    @pytest.mark.parametrize("count", [None, -1, "10", 1.5])
    def test_an_import_that_yields_no_number_is_a_bug_of_the_plugin(
        self, recording: imagebroker.Broker, count: Any
    ) -> None:
        ANSWERS["import_image"] = [count]
        with pytest.raises(BackendError, match="import_image"):
            recording.import_image(None, UUID, url="http://h/x")

    def test_purge_gets_an_age_and_answers_with_what_went(
        self, recording: imagebroker.Broker
    ) -> None:
        gone = Image(ref=f"recording:{UUID}")
        ANSWERS["purge"] = iter([gone])
        assert_that(recording.purge(None, older_than=60, dry_run=True), Equals([gone]))
        assert_that(CALLS[0][2:], Equals((60, True)))
        for wrong in (-1, float("inf"), float("nan")):
            with pytest.raises(InvalidImageRef):
                recording.purge(None, older_than=wrong)

    def test_the_backend_is_closed_once_and_an_error_there_is_logged(
        self, recording: imagebroker.Broker, caplog: pytest.LogCaptureFixture
    ) -> None:
        ANSWERS["close"] = ValueError("close failed")
        recording.resolve(UUID)
        recording.close()
        recording.close()
        assert_that([call[0] for call in CALLS], Equals(["close"]))
        assert_that(caplog.text, Contains("close failed"))


class TestHost:
    def test_options_are_the_instances_own_and_the_cores_beside_them(
        self, recording: imagebroker.Broker
    ) -> None:
        recording.resolve(UUID)
        recording.resolve(f"recording:east:{UUID}")
        plain, east = (backend.host for backend in RecordingBackend.made)
        assert_that((plain.instance, plain.options.colour, plain.options.depth),
                    Equals((None, "blue", 1)))  # fmt: skip
        assert_that((east.instance, east.options.colour, east.options.depth),
                    Equals(("east", "red", 7)))  # fmt: skip
        core = {"endpoint", "allowed_networks", "allowed_ports", "require_checksum", "proxy"}
        assert_that(set(plain.options), Equals(core | {"colour", "depth"}))
        assert_that(plain.options.require_checksum, Is(True))  # the class's default
        assert_that((plain.ref(UUID), east.ref(UUID)),
                    Equals((f"recording:{UUID}", f"recording:east:{UUID}")))  # fmt: skip
        assert_that(repr(plain.options), Equals(
            f"Options({', '.join(sorted(core | {'colour', 'depth'}))})"))  # fmt: skip

    def test_a_uri_below_an_endpoint_belongs_to_that_instance(
        self, on_path: Path, make_broker: Callable[..., imagebroker.Broker]
    ) -> None:
        install(on_path, "imagebroker-near", {"near": "near_plugin:SimpleBackend"},
                near_plugin=simple("near"))  # fmt: skip
        broker = make_broker("""
            [imagebroker]
            enabled_schemes = near
            [backend:near:a]
            endpoint = near://h/images
            [backend:near:b]
            endpoint = near://h/images/deep/
            """)
        found = {
            ref: broker.resolve(f"near://{ref}").backend
            for ref in ("h/images/x", "h/images/deep/x", "h/imagesx", "other/images/x")
        }
        assert_that(found, Equals({
            "h/images/x": "near:a", "h/images/deep/x": "near:b",
            "h/imagesx": "near", "other/images/x": "near",
        }))  # fmt: skip

    def test_schemes_of_one_name_share_class_section_and_instance(
        self, on_path: Path, make_broker: Callable[..., imagebroker.Broker]
    ) -> None:
        source = simple("plain") + (
            "\nMADE = []\nSimpleBackend.__init__ = lambda self, host: MADE.append(host)\n"
        )
        install(on_path, "imagebroker-plain",
                {"plain": "plain_plugin:SimpleBackend", "plains": "plain_plugin:SimpleBackend"},
                plain_plugin=source)  # fmt: skip
        broker = make_broker("[imagebroker]\nenabled_schemes = plain, plains\n")
        assert_that(broker.resolve("plains://h/image").backend, Equals("plain"))
        assert_that(broker.resolve("plain://h/image").backend, Equals("plain"))
        import plain_plugin  # type: ignore[import-not-found]

        assert_that(len(plain_plugin.MADE), Equals(1))

    def test_one_instance_serves_all_threads(self, recording: imagebroker.Broker) -> None:
        barrier = threading.Barrier(8)

        def resolve() -> None:
            barrier.wait(30)
            recording.resolve(UUID)

        threads = [threading.Thread(target=resolve) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert_that(len(RecordingBackend.made), Equals(1))

    def test_an_option_that_the_plugin_refuses_is_a_config_error(
        self, on_path: Path, make_broker: Callable[..., imagebroker.Broker]
    ) -> None:
        source = simple("picky").replace(
            "    api_version", "    def __init__(self, host):\n        "
            "raise ConfigError('[backend:picky] colour: no such colour', hint='red')\n\n"
            "    api_version",
        )  # fmt: skip
        install(on_path, "imagebroker-picky", {"picky": "picky_plugin:SimpleBackend"},
                picky_plugin=source)  # fmt: skip
        with pytest.raises(ConfigError, match="no such colour"):
            make_broker("[imagebroker]\nenabled_schemes = picky\n").resolve("picky://h/image")

    def test_a_class_that_makes_something_else_is_a_load_error(self) -> None:
        class Odd(Probe):
            def __new__(cls, host: BackendHost) -> Any:
                return Chunks()

        with pytest.raises(BackendLoadError, match=r"imagebroker-probe 1\.0"):
            Boundary(Declaration.of(Odd), BackendHost(name="probe", options=Options({})), ORIGIN)

    def test_connect_goes_to_allowed_addresses_only_and_waits_no_longer_than_the_stall_limit(
        self,
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            allowed = BackendHost(
                name="probe", options=Options({}), policy=LOOPBACK, limits=Limits(stall_timeout=7.0)
            )
            with allowed.connect("127.0.0.1", port) as sock:
                assert_that(sock.gettimeout(), Equals(7.0))
                server.accept()[0].close()
            refusing = BackendHost(name="probe", options=Options({}))
            for host in ("127.0.0.1", "localhost", "[::1]"):
                with pytest.raises(PolicyViolation) as caught:
                    refusing.connect(host, port)
                assert_that(caught.value.hint, Contains("allowed_networks"))
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.accept()  # nobody came

    def test_a_second_answer_of_the_name_server_has_no_say(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            answers = iter([
                [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))],
                [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", port))],
            ])  # fmt: skip
            monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **named: next(answers))
            host = BackendHost(name="probe", options=Options({}), policy=LOOPBACK)
            with host.connect("rebinding.example", port) as sock:
                assert_that(sock.getpeername(), Equals(("127.0.0.1", port)))
            with pytest.raises(PolicyViolation):
                host.connect("rebinding.example", port)

    def test_nobody_there_is_a_transfer_error_with_a_hint(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        host = BackendHost(name="probe", options=Options({}), policy=LOOPBACK)
        with pytest.raises(TransferError) as caught:
            host.connect("127.0.0.1", port)
        assert_that(bool(caught.value.hint), Is(True))

    def test_open_beneath_follows_no_link_and_leaves_no_root(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        (root / "deep").mkdir(parents=True)
        (root / "deep" / "image").write_bytes(b"bytes")
        (tmp_path / "rootless").write_bytes(b"secret")
        (root / "link").symlink_to("deep/image")
        (root / "away").symlink_to(tmp_path)
        os.mkfifo(root / "fifo")
        host = BackendHost(name="probe", options=Options({}))
        fd = host.open_beneath(root, "deep/image")
        with open(fd, "rb") as file:
            assert_that(file.read(), Equals(b"bytes"))
        for path in ("../rootless", "link", "away/rootless", "deep", "fifo", "deep//image", ".",
                     "deep/./image", "", "/etc/passwd"):  # fmt: skip
            with pytest.raises(PolicyViolation):
                host.open_beneath(root, path)
        for path in ("missing", "deep/image/x"):
            with pytest.raises(ImageNotFound):
                host.open_beneath(root, path)

    @pytest.mark.parametrize(
        ("new", "leads_to"),
        [
            ("/other", "https://8.8.8.8/other"),
            ("other?x=1", "https://8.8.8.8/a/other?x=1"),
            ("https://9.9.9.9/x", "https://9.9.9.9/x"),
            ("http://8.8.8.8/a/b", None),
            ("file:///etc/passwd", None),
            ("scp://8.8.8.8/x", None),
            ("//9.9.9.9/x", "https://9.9.9.9/x"),
            ("//127.0.0.1/x", None),
            ("\\\\9.9.9.9\\x", None),
            ("https://127.0.0.1/x", None),
            ("https://169.254.169.254/x", None),
            ("https://8.8.8.8:22/x", None),
            ("https://me@8.8.8.8/x", None),
            ("https://8.8.8.8/x\r\nX: y", None),
            ("javascript:1", None),
            ("", "https://8.8.8.8/a/b"),
        ],
    )
    def test_a_redirect_is_allowed_or_raises(self, new: str, leads_to: str | None) -> None:
        host = BackendHost(name="probe", options=Options({}))
        if leads_to is None:
            with pytest.raises(PolicyViolation):
                host.redirect("https://8.8.8.8/a/b", new)
        else:
            assert_that(host.redirect("https://8.8.8.8/a/b", new), Equals(leads_to))


def test_what_is_wrong_with_a_query_is_said_at_the_call_and_pages_are_read_later() -> None:
    read: list[int] = []

    class Lists(Probe):
        def get_all(self, context: Any, query: ImageQuery) -> Iterator[Image]:
            if query.marker is not None:
                raise InvalidImageRef("no such marker")
            return self._pages()

        def _pages(self) -> Iterator[Image]:
            for number in range(3):
                read.append(number)
                yield Image(ref=f"probe:{number}")

    host = BackendHost(name="probe", options=Options({}), policy=LOOPBACK)
    boundary = Boundary(Declaration.of(Lists), host, "probe 1.0")
    with pytest.raises(InvalidImageRef):
        boundary.get_all(None, ImageQuery(marker="x"))
    images = boundary.get_all(None, ImageQuery())
    assert_that(read, Equals([]))
    next(images)
    assert_that(read, Equals([0]))
