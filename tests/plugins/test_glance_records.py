"""Listing and writing records at a Glance that does as it is told."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import (
    Contains,
    Equals,
    HasLength,
    Is,
    IsInstance,
    LessThan,
    MatchesStructure,
    StartsWith,
)

from imagebroker.plugin import (
    BackendError,
    Conflict,
    Gone,
    Image,
    ImageData,
    ImageNotFound,
    ImageQuery,
    InvalidImageRef,
    NotAuthorized,
    PolicyViolation,
    QuotaExceeded,
    TransferError,
    UploadFailed,
)
from tests.plugins.glance_stub import (
    DATA,
    ID,
    REF,
    STALL,
    Request,
    Stub,
    answer,
    asking,
    caller,
    json_answer,
    record,
)
from tests.servers.raw import Connection

OTHER = "6f2504e0-4f89-41d3-9a0c-0305e82c3302"


# -- listing ---------------------------------------------------------------------------------------


class Listing:
    """Pages of images; asks for nothing but what was asked for."""

    def __init__(self, pages: list[list[dict[str, Any]]]) -> None:
        self.pages = pages

    def __call__(self, request: Request, connection: Connection) -> bytes | None:
        number = sum(r.path == "/v2/images" for r in self.stub.requests) - 1
        page: dict[str, Any] = {"images": self.pages[min(number, len(self.pages) - 1)]}
        if number + 1 < len(self.pages):
            page["next"] = self.following(page["images"])
        return json_answer(page)

    stub: Stub

    def following(self, images: list[dict[str, Any]]) -> str:
        return f"/v2/images?marker={images[-1]['id']}"


def listed(number: int) -> dict[str, Any]:
    return record(id=f"00000000-0000-4000-8000-{number:012d}")


@pytest.fixture
def listing() -> Iterator[tuple[Stub, Listing]]:
    pages = Listing([[listed(1), listed(2)], [listed(2), listed(3)], [listed(4)]])
    with Stub(pages) as stub:
        pages.stub = stub
        yield stub, pages


def test_pages_are_read_as_needed_and_no_image_comes_twice(listing: tuple[Stub, Listing]) -> None:
    stub, _ = listing
    images = asking(stub).get_all(caller(), ImageQuery(page_size=2))
    assert_that(stub.requests, HasLength(0))
    assert_that(str(next(images).id), StartsWith("00000000"))
    assert_that(stub.requests, HasLength(1))
    assert_that([int(str(each.id)[-3:]) for each in images], Equals([2, 3, 4]))
    assert_that(
        dict(stub.requests[0].query),
        Equals({"status": "active", "sort_key": "created_at", "sort_dir": "desc", "limit": "2"}),
    )
    assert_that(dict(stub.requests[2].query)["marker"], Equals(str(listed(3)["id"])))


def test_a_limit_ends_the_list(listing: tuple[Stub, Listing]) -> None:
    stub, _ = listing
    images = list(asking(stub).get_all(caller(), ImageQuery(limit=3)))
    assert_that(images, HasLength(3))
    assert_that([dict(r.query)["limit"] for r in stub.requests], Equals(["3", "1"]))


@pytest.mark.parametrize(
    "following",
    ["http://evil.example/v2/images?marker=%s", "//evil.example/v2/images?marker=%s",
     "/v3/tokens?marker=%s", "?marker=x%%0d%%0aEvil:%%20y", "\\\\evil", "7"],
)  # fmt: skip
def test_the_next_page_is_asked_of_the_same_place(
    listing: tuple[Stub, Listing], following: str
) -> None:
    stub, pages = listing

    def evil(images: list[dict[str, Any]]) -> str:
        return following % images[-1]["id"] if "%s" in following else following

    pages.following = evil  # type: ignore[method-assign]
    assert_that(list(asking(stub).get_all(caller(), ImageQuery())), HasLength(4))
    assert_that({r.path for r in stub.requests}, Equals({"/v2/images"}))
    assert_that({r.headers["host"] for r in stub.requests}, HasLength(1))


def test_a_list_that_repeats_itself_ends(listing: tuple[Stub, Listing]) -> None:
    stub, pages = listing
    pages.pages = [[listed(1)]] * 50
    images = asking(stub).get_all(caller(), ImageQuery())
    with pytest.raises(TransferError):
        list(images)
    assert_that(stub.requests, HasLength(2))


def test_a_deleted_mark_is_replaced_by_an_earlier_one(listing: tuple[Stub, Listing]) -> None:
    stub, pages = listing
    pages.pages = [[listed(1), listed(2)], [listed(3)]]

    def answering(request: Request, connection: Connection) -> bytes | None:
        marker = dict(request.query).get("marker")
        if marker == listed(2)["id"]:
            return answer(400, b"no such marker")
        more = {"next": "/v2/images"} if marker is None else {}
        return json_answer({"images": pages.pages[marker is not None], **more})

    stub.answering = answering
    found = [int(str(each.id)[-3:]) for each in asking(stub).get_all(caller(), ImageQuery())]
    assert_that(found, Equals([1, 2, 3]))


@pytest.mark.parametrize("value", ["a&b=c", "a#b", "a\nb", "a b+c%20", "ä", "a;b", "'\"<"])
def test_filter_values_are_encoded_once(listing: tuple[Stub, Listing], value: str) -> None:
    stub, pages = listing
    pages.pages = [[]]
    filters = {"name": value, "property-os_type": value, "tag": value}
    list(asking(stub).get_all(caller(), ImageQuery(filters=filters)))
    found = dict(stub.requests[0].query)
    assert_that([found["name"], found["os_type"], found["tag"]], Equals([value] * 3))


@pytest.mark.parametrize(
    ("filters", "sent"),
    [
        ({"status": "queued"}, [("status", "queued")]),
        ({"status": ["queued", "active"]}, [("status", 'in:"queued","active"')]),
        ({"name": "in:a,b"}, [("status", "active"), ("name", "eq:in:a,b")]),
        ({"hidden": True}, [("status", "active"), ("os_hidden", "true")]),
        ({"protected": False}, [("status", "active"), ("protected", "false")]),
        ({"tags": ["a", "b"]}, [("status", "active"), ("tag", "a"), ("tag", "b")]),
        ({"changes-since": datetime(2026, 1, 2, tzinfo=UTC)},
         [("status", "active"), ("updated_at", "gte:2026-01-02T00:00:00+00:00")]),
        ({"size_min": 7}, [("status", "active"), ("size_min", "7")]),
        ({"owner": None}, [("status", "active")]),
    ],
)  # fmt: skip
def test_filters_are_put_into_glances_words(
    listing: tuple[Stub, Listing], filters: dict[str, Any], sent: list[tuple[str, str]]
) -> None:
    stub, pages = listing
    pages.pages = [[]]
    before = json.dumps(filters, default=str)
    list(asking(stub).get_all(caller(), ImageQuery(filters=filters)))
    always = ("limit", "sort_key", "sort_dir")
    got = [each for each in stub.requests[0].query if each[0] not in always]
    assert_that(sorted(got), Equals(sorted(sent)))
    assert_that(json.dumps(filters, default=str), Equals(before))


@pytest.mark.parametrize(
    "name",
    ["colour", "property-", "property-limit", "property-status", "property-marker", "members"],
)
def test_an_unknown_filter_is_refused_at_the_call(listing: tuple[Stub, Listing], name: str) -> None:
    stub, _ = listing
    with pytest.raises(InvalidImageRef):
        asking(stub).get_all(caller(), ImageQuery(filters={name: "x"}))
    assert_that(stub.requests, HasLength(0))


@pytest.mark.parametrize("page", [{}, {"images": 7}, {"images": [7]}, {"images": [{"id": "x"}]}])
def test_a_malformed_page_is_an_error_of_the_server(
    listing: tuple[Stub, Listing], page: dict[str, Any]
) -> None:
    stub, _ = listing
    stub.answering = lambda request, _: json_answer(page)
    with pytest.raises(TransferError):
        list(asking(stub).get_all(caller(), ImageQuery()))


# -- create, update, delete ------------------------------------------------------------------------


class Store:
    """A Glance of a few lines that stores images; single answers can be replaced."""

    def __init__(self) -> None:
        self.images: dict[str, dict[str, Any]] = {}
        #: `(method, last part of the path)` to what to answer instead.
        self.instead: dict[tuple[str, str], Any] = {}

    def __call__(self, request: Request, connection: Connection) -> bytes | None:
        parts = request.path.split("/")[3:]
        key = (request.method, "file" if parts[1:] == ["file"] else "image" if parts else "images")
        if key in self.instead:
            said = self.instead[key]
            return said(request, connection) if callable(said) else said  # type: ignore[no-any-return]
        return self.good(request)

    def good(self, request: Request) -> bytes:
        parts = request.path.split("/")[3:]
        if request.method == "POST":
            made = {
                **record(
                    b"",
                    status="queued",
                    size=None,
                    os_hash_value=None,
                    os_hash_algo=None,
                    checksum=None,
                ),
                **request.json,
            }
            self.images[made["id"]] = made
            return json_answer(made, 201)
        image = self.images.get(parts[0])
        if image is None:
            return answer(404)
        if request.method == "DELETE":
            if image["protected"]:
                return answer(403)
            del self.images[parts[0]]
            return answer(204)
        if request.method == "PUT":
            image.update(
                status="active",
                size=len(request.body),
                os_hash_algo="sha512",
                os_hash_value=hashlib.sha512(request.body).hexdigest(),
            )
            return answer(204)
        if request.method == "PATCH":
            for each in request.json:
                image[each["path"][1:]] = each.get("value")
        return json_answer(image)


@pytest.fixture
def store() -> Iterator[tuple[Stub, Store]]:
    images = Store()
    with Stub(images) as stub:
        yield stub, images


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
    assert_that(caplog.text.count(f"image {left} is left behind"), Equals(1))


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
        assert_that(time.monotonic() - began, LessThan(STALL * 4 + 2))
        assert_that(images.images, Equals({}))


def test_a_deleted_image_cannot_be_deleted_again(store: tuple[Stub, Store]) -> None:
    stub, images = store
    images.images[ID] = record()
    backend = asking(stub)
    backend.delete(caller(), REF)
    with pytest.raises(ImageNotFound):
        backend.delete(caller(), REF)


@pytest.mark.parametrize(
    ("protected", "status", "kind"),
    [(True, 403, PolicyViolation), (False, 403, NotAuthorized), (False, 409, Conflict)],
)
def test_a_delete_that_is_refused_says_why(
    store: tuple[Stub, Store], protected: bool, status: int, kind: type[Exception]
) -> None:
    stub, images = store
    images.images[ID] = record(protected=protected)
    images.instead["DELETE", "image"] = answer(status)
    with pytest.raises(kind):
        asking(stub).delete(caller(), REF)
    assert_that(images.images, Contains(ID))


def test_an_update_says_only_what_differs(store: tuple[Stub, Store]) -> None:
    stub, images = store
    images.images[ID] = record(os_type="linux", **{"a/b~c": "1"}, os_glance_x="mine", keep="1")
    changes = {
        "name": "new",
        "min_disk": 0,
        "tags": None,
        "hidden": True,
        "id": OTHER,
        "properties": {"os_type": None, "a/b~c": "2", "keep": "1", "absent": None},
    }
    asking(stub).update(caller(), REF, changes, None, False)
    [patch] = [r.json for r in stub.requests if r.method == "PATCH"]
    assert_that(
        patch,
        Equals(
            [
                {"op": "replace", "path": "/name", "value": "new"},
                {"op": "replace", "path": "/os_hidden", "value": True},
                {"op": "add", "path": "/a~1b~0c", "value": "2"},
                {"op": "remove", "path": "/os_type"},
            ]
        ),
    )


def test_purging_removes_what_is_not_named_and_nothing_of_glances_own(
    store: tuple[Stub, Store],
) -> None:
    stub, images = store
    images.images[ID] = record(one="1", two="2", os_glance_importing_to_stores="x")
    asking(stub).update(caller(), REF, {"properties": {"one": "1"}}, None, True)
    [patch] = [r.json for r in stub.requests if r.method == "PATCH"]
    assert_that(patch, Equals([{"op": "remove", "path": "/two"}]))


def test_an_update_that_changes_nothing_sends_nothing(store: tuple[Stub, Store]) -> None:
    stub, images = store
    images.images[ID] = record()
    asking(stub).update(caller(), REF, {"name": "stub"}, None, False)
    assert_that({r.method for r in stub.requests}, Equals({"GET"}))


@pytest.mark.parametrize(
    "name", ["status", "id", "size", "location", "deleted", "checksum", "self"]
)
def test_a_property_cannot_pose_as_an_attribute(store: tuple[Stub, Store], name: str) -> None:
    stub, images = store
    images.images[ID] = record()
    posing = Image(ref="", properties={name: "x"})
    with pytest.raises(InvalidImageRef):
        asking(stub).create(caller(), posing, None)
    with pytest.raises(InvalidImageRef):
        asking(stub).update(caller(), REF, {"properties": {name: "x"}}, None, False)
    assert_that({r.method for r in stub.requests} <= {"GET"}, Is(True))


def test_data_is_never_replaced(store: tuple[Stub, Store]) -> None:
    stub, images = store
    images.images[ID] = record()
    with pytest.raises(Conflict):
        asking(stub).update(caller(), REF, {}, ImageData(b"x"), False)
    assert_that(stub.count("PUT", "/file"), Equals(0))
    images.images[ID]["status"] = "queued"
    assert_that(
        asking(stub).update(caller(), REF, {}, ImageData(DATA), False).size, Equals(len(DATA))
    )
