"""An image is stored at a Glance whole or not at all."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import (
    Contains,
    Equals,
    HasLength,
    Is,
    IsInstance,
    MatchesStructure,
)

from imagebroker.plugin import (
    BackendError,
    Conflict,
    Gone,
    Image,
    ImageData,
    InvalidImageRef,
    NotAuthorized,
    QuotaExceeded,
    UploadFailed,
)
from tests.bounds import in_time
from tests.plugins.glance.stored_uploads import Store
from tests.plugins.glance_stub import DATA, ID, STALL, Request, Stub, answer, asking, caller, record
from tests.servers.raw import Connection

NEW = Image(ref="", name="new", disk_format="raw")


def test_a_new_image_is_stored_with_its_data(store: tuple[Stub, Store]) -> None:
    stub, _ = store
    image = asking(stub).create(caller(), NEW, ImageData(DATA))
    assert_that(
        image,
        MatchesStructure.byEquality(
            name="new", status="active", size=len(DATA), container_format="bare"
        ),
    )
    [put] = [r for r in stub.requests if r.method == "PUT"]
    assert_that(put.body, Equals(DATA))
    assert_that(put.headers["x-openstack-image-size"], Equals(str(len(DATA))))


def test_data_that_is_not_what_was_declared_is_removed_again(store: tuple[Stub, Store]) -> None:
    stub, images = store
    for algorithm in ("sha256", "sha512"):
        wrong = Image(ref="", disk_format="raw", checksums={algorithm: "ab" * 32})
        with pytest.raises(UploadFailed):
            asking(stub).create(caller(), wrong, ImageData(DATA))
    assert_that(images.images, Equals({}))
    with pytest.raises(InvalidImageRef):
        asking(stub).create(caller(), Image(ref="", size=7), None)


def test_data_of_unknown_size_is_sent_in_chunks(store: tuple[Stub, Store]) -> None:
    stub, _ = store
    image = asking(stub).create(caller(), NEW, ImageData(iter([DATA, DATA])))
    assert_that(image.size, Equals(2 * len(DATA)))
    [put] = [r for r in stub.requests if r.method == "PUT"]
    assert_that(put.headers["transfer-encoding"], Equals("chunked"))


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InvalidImageRef), (403, NotAuthorized), (409, Conflict), (413, QuotaExceeded),
     (503, BackendError)],
)  # fmt: skip
def test_a_refused_record_leaves_nothing(
    store: tuple[Stub, Store], status: int, kind: type[Exception]
) -> None:
    stub, images = store
    images.instead["POST", "images"] = answer(status, b"no")
    with pytest.raises(kind):
        asking(stub).create(caller(), NEW, ImageData(DATA))
    assert_that(images.images, Equals({}))
    assert_that(stub.count("PUT", "/file"), Equals(0))


def test_a_lost_answer_to_the_first_request_is_found_out_by_id(store: tuple[Stub, Store]) -> None:
    stub, images = store

    def lose(request: Request, connection: Connection) -> None:
        images.good(request)
        connection.reset()

    images.instead["POST", "images"] = lose
    image = asking(stub).create(caller(), NEW, ImageData(DATA))
    assert_that(image.status, Equals("active"))
    assert_that(list(images.images), Equals([image.id]))
    assert_that(stub.count("POST", "/images"), Equals(1))


def test_an_id_that_exists_is_a_conflict_and_stays_as_it_is(store: tuple[Stub, Store]) -> None:
    stub, images = store
    images.images[ID] = record()
    chosen = Image(ref="", id=ID, disk_format="raw")
    with pytest.raises(Conflict):
        asking(stub).create(caller(), chosen, ImageData(b"x"))
    assert_that(images.images[ID], Equals(record()))


def failing(after: int) -> Iterator[bytes]:
    yield DATA[:after]
    raise RuntimeError("the disk of the source died")


@pytest.mark.promise("upload-whole-or-nothing")
@pytest.mark.parametrize("after", [0, 1000, len(DATA)])
@pytest.mark.parametrize("size", [None, len(DATA)])
def test_a_source_that_fails_leaves_no_record(
    store: tuple[Stub, Store], after: int, size: int | None
) -> None:
    stub, images = store
    images.instead["PUT", "file"] = lambda request, _: images.good(request)
    with pytest.raises(UploadFailed) as caught:
        asking(stub).create(caller(), NEW, ImageData(failing(after), size=size))
    assert_that(str(caught.value), Contains("the disk of the source died"))
    assert_that(caught.value.__cause__, IsInstance(RuntimeError))
    assert_that(images.images, Equals({}))
    assert_that(caught.value.image_id, Is(None))


@pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
def test_a_source_of_another_size_than_declared_leaves_no_record(
    store: tuple[Stub, Store], size: int
) -> None:
    stub, images = store
    with pytest.raises(UploadFailed):
        asking(stub).create(caller(), NEW, ImageData(iter([DATA]), size=size))
    assert_that(images.images, Equals({}))


@pytest.mark.promise("security-31")
@pytest.mark.parametrize("source", ["bytes", "iterator"])
def test_a_broken_upload_is_repeated_only_where_the_data_can_be_rewound(
    store: tuple[Stub, Store], source: str
) -> None:
    stub, images = store
    broken: list[int] = []

    def cut(request: Request, connection: Connection) -> bytes | None:
        broken.append(len(request.body))
        if len(broken) > 1:
            return images.good(request)
        connection.reset()
        return None

    images.instead["PUT", "file"] = cut
    data = ImageData(DATA) if source == "bytes" else ImageData(iter([DATA]), size=len(DATA))
    backend = asking(stub)
    if source == "bytes":
        image = backend.create(caller(), NEW, data)
        assert_that(image.checksums["sha512"], Equals(hashlib.sha512(DATA).hexdigest()))
        assert_that(broken, Equals([len(DATA), len(DATA)]))
        return
    with pytest.raises(UploadFailed):
        backend.create(caller(), NEW, data)
    assert_that(broken, HasLength(1))
    assert_that(images.images, Equals({}))


def test_an_upload_whose_answer_is_lost_is_taken_for_what_it_became(
    store: tuple[Stub, Store],
) -> None:
    stub, images = store

    def lose(request: Request, connection: Connection) -> None:
        images.good(request)
        connection.reset()

    images.instead["PUT", "file"] = lose
    image = asking(stub).create(caller(), NEW, ImageData(iter([DATA])))
    assert_that(image.status, Equals("active"))
    assert_that(stub.count("PUT", "/file"), Equals(1))


@pytest.mark.promise("security-31")
@pytest.mark.parametrize(
    "lie", [{"size": 7}, {"os_hash_value": "ab" * 64}, {"status": "queued"}, {"size": None}]
)
def test_a_record_that_differs_from_what_was_sent_is_removed(
    store: tuple[Stub, Store], lie: dict[str, Any]
) -> None:
    stub, images = store

    def lying(request: Request, connection: Connection) -> bytes:
        images.good(request)
        images.images[request.path.split("/")[3]].update(lie)
        return answer(204)

    images.instead["PUT", "file"] = lying
    with pytest.raises(UploadFailed):
        asking(stub).create(caller(), NEW, ImageData(DATA))
    assert_that(images.images, Equals({}))


@pytest.mark.parametrize("stored", [DATA, b"x" + DATA[1:]])
def test_where_the_record_has_no_known_digest_the_data_is_read_again(
    store: tuple[Stub, Store], stored: bytes
) -> None:
    stub, images = store

    def without(request: Request, connection: Connection) -> bytes:
        images.good(request)
        images.images[request.path.split("/")[3]].update(os_hash_algo=None, os_hash_value=None)
        return answer(204)

    images.instead["PUT", "file"] = without
    images.instead["GET", "file"] = answer(200, stored)
    backend = asking(stub)
    if stored == DATA:
        assert_that(backend.create(caller(), NEW, ImageData(DATA)).status, Equals("active"))
        return
    with pytest.raises(UploadFailed):
        backend.create(caller(), NEW, ImageData(DATA))
    assert_that(images.images, Equals({}))


@pytest.mark.promise("security-30")
@pytest.mark.parametrize(
    ("status", "kind"),
    [(413, QuotaExceeded), (409, Conflict), (410, Gone), (403, NotAuthorized), (500, UploadFailed)],
)
def test_refused_data_takes_the_record_with_it(
    store: tuple[Stub, Store], status: int, kind: type[Exception]
) -> None:
    stub, images = store
    images.instead["PUT", "file"] = answer(status, b"no")
    with pytest.raises(kind):
        asking(stub, stall=1).create(caller(), NEW, ImageData(iter([DATA])))
    assert_that(images.images, Equals({}))


@pytest.mark.promise("security-30", "upload-whole-or-nothing")
@pytest.mark.parametrize("refusal", [403, 503])
def test_a_record_that_cannot_be_removed_is_named(
    store: tuple[Stub, Store], refusal: int, caplog: pytest.LogCaptureFixture
) -> None:
    stub, images = store
    images.instead["PUT", "file"] = answer(413)
    images.instead["DELETE", "image"] = answer(refusal)
    with pytest.raises(UploadFailed) as caught:
        asking(stub).create(caller(), NEW, ImageData(DATA))
    [left] = images.images
    assert_that(caught.value.image_id, Equals(left))
    assert_that(caplog.text.count(f"cannot remove the record of image {left}"), Equals(1))


def test_a_protected_image_becomes_so_only_when_its_data_is_there(
    store: tuple[Stub, Store],
) -> None:
    stub, images = store
    protected = Image(ref="", disk_format="raw", protected=True)
    assert_that(asking(stub).create(caller(), protected, ImageData(DATA)).protected, Is(True))
    images.instead["PUT", "file"] = answer(413)
    with pytest.raises(QuotaExceeded):
        asking(stub).create(caller(), protected, ImageData(DATA))
    assert_that(images.images, HasLength(1))


def test_a_server_that_stops_reading_ends_the_upload() -> None:
    images = Store()
    with Stub(images) as stub:
        stub.before_body = lambda head: head.startswith(b"PUT") and stub.closing.wait()
        data = ImageData(iter([b"x" * (32 << 20)]))
        began = time.monotonic()
        with pytest.raises(UploadFailed):
            asking(stub, stall=STALL).create(caller(), NEW, data)
        assert_that(time.monotonic() - began, in_time(STALL * 4 + 2))
        assert_that(images.images, Equals({}))
