"""Lists of a Glance that does as it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, HasLength, StartsWith

from imagebroker.plugin import ImageQuery, InvalidImageRef, TransferError
from tests.plugins.glance_stub import Request, Stub, answer, asking, caller, json_answer, record
from tests.servers.raw import Connection


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


@pytest.mark.promise("security-25")
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
