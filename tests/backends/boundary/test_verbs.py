"""How the other verbs reach a plugin, and what its answers must be."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, MatchesAll, MatchesStructure

import imagebroker
from imagebroker.backends.boundary import Boundary
from imagebroker.backends.declaration import Declaration
from imagebroker.plugin import (
    BackendError,
    BackendHost,
    Image,
    ImageData,
    ImageNotFound,
    ImageQuery,
    InvalidImageRef,
    Options,
    UnsupportedOperation,
    UploadFailed,
)
from tests.backends.boundary.probe import LOOPBACK, UUID, Chunks, Probe, RecordingBackend
from tests.conftest import Scripted

CALLS = RecordingBackend.calls
ANSWERS = RecordingBackend.answers


class TestVerbs:
    @pytest.mark.promise("C19")
    def test_get_is_derived_from_open_and_closes_the_source(
        self, recording: imagebroker.Broker
    ) -> None:
        ANSWERS["open"] = source = Chunks(size=3)
        assert_that(recording.get(None, UUID).size, Equals(3))
        assert_that(source.closed, Equals(1))

    @pytest.mark.promise("C8")
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

    @pytest.mark.promise("C8")
    def test_capabilities_are_the_methods_that_the_class_overrides(
        self, recording: imagebroker.Broker, scripted: Scripted
    ) -> None:
        everything = recording.resolve(UUID).capabilities
        assert_that(
            everything,
            Equals(
                (
                    "download",
                    "get_all",
                    "create",
                    "update",
                    "delete",
                    "import_image",
                    "purge",
                    "stores",
                    "members",
                )
            ),
        )
        ref, _ = scripted.image(b"x")
        assert_that(scripted.broker.resolve(ref).capabilities, Equals(("download",)))

    @pytest.mark.promise("C20")
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

    @pytest.mark.promise("C20")
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

    @pytest.mark.promise("C21")
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

    @pytest.mark.promise("C23")
    def test_update_gets_the_changes_with_none_for_what_is_removed(
        self, recording: imagebroker.Broker
    ) -> None:
        ANSWERS["update"] = Image(ref=f"recording:{UUID}")
        recording.update(None, UUID, {"name": None, "properties": {"a": "1"}}, purge_props=True)
        _, _, ref, changes, data, purge_props = CALLS[0]
        assert_that(ref, MatchesStructure.byEquality(text=f"recording:{UUID}", id=UUID))
        assert_that(changes, Equals({"name": None, "properties": {"a": "1"}}))
        assert_that((data, purge_props), Equals((None, True)))

    @pytest.mark.promise("C24")
    def test_delete_gets_the_ref_and_a_missing_image_is_told(
        self, recording: imagebroker.Broker
    ) -> None:
        recording.delete(None, UUID)
        assert_that(CALLS[0][2].id, Equals(UUID))
        ANSWERS["delete"] = ImageNotFound("no such image")
        with pytest.raises(ImageNotFound):
            recording.delete(None, UUID)

    @pytest.mark.promise("C21", "security-31", "upload-whole-or-nothing")
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

    @pytest.mark.promise("C22")
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

    @pytest.mark.promise("C22", "upload-whole-or-nothing")
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

    @pytest.mark.promise("C22")
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

    @pytest.mark.promise("C21")
    def test_create_tells_whether_the_record_is_to_stay(
        self, recording: imagebroker.Broker
    ) -> None:
        for keep in (False, True):
            ANSWERS["create"] = UploadFailed("so it is", image_id=UUID)
            with pytest.raises(UploadFailed):
                recording.create(None, {}, b"bytes", keep_record=keep)
            assert_that(CALLS[-1][3].keep_record, Is(keep))

    @pytest.mark.promise("C32")
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

    @pytest.mark.promise("C32")
    @pytest.mark.parametrize("count", [None, -1, "10", 1.5])
    def test_an_import_that_yields_no_number_is_a_bug_of_the_plugin(
        self, recording: imagebroker.Broker, count: Any
    ) -> None:
        ANSWERS["import_image"] = [count]
        with pytest.raises(BackendError, match="import_image"):
            recording.import_image(None, UUID, url="http://h/x")

    @pytest.mark.promise("C33")
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

    @pytest.mark.promise("C25")
    def test_the_backend_is_closed_once_and_an_error_there_is_logged(
        self, recording: imagebroker.Broker, caplog: pytest.LogCaptureFixture
    ) -> None:
        ANSWERS["close"] = ValueError("close failed")
        recording.resolve(UUID)
        recording.close()
        recording.close()
        assert_that([call[0] for call in CALLS], Equals(["close"]))
        assert_that(caplog.text, Contains("close failed"))


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
