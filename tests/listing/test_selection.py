"""Lists of backends whose storage cannot filter: the rules of the file backend, over any images."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.plugin import Image, ImageQuery, InvalidImageRef

DAY = [datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 9)]
IMAGES = (
    Image("x:a", id="a", name="one", status="active", size=10, created_at=DAY[1], tags=("gold",),
          properties={"os": "debian", "cores": 4, "uefi": True}, visibility="public"),
    Image("x:b", id="b", name="two", size=20, created_at=DAY[2], updated_at=DAY[5],
          tags=("gold", "lts"), members=("p1", "p2"), checksums={"sha256": "ab"}),
    Image("x:c", id="c", name="three", size=None, created_at=None, hidden=True),
    Image("x:d", id="d", name="four", status="queued", size=5, created_at=DAY[3]),
    Image("x:e", name="five", status="active", size=20, created_at=DAY[3], protected=True),
    Image("x:f", id="f", name="six", status="active", size=1, deleted_at=DAY[6]),
)  # fmt: skip


def names(images: Any = IMAGES, **query: Any) -> list[str]:
    return [str(image.name) for image in ImageQuery(**query).apply(images)]


@pytest.mark.promise("C20")
@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "one two five"),
        ({"status": "queued"}, "four"),
        ({"status": ["queued", "active"]}, "one two four five"),
        ({"status": "deleted"}, "six"),
        ({"hidden": True}, "three"),
        ({"hidden": "true"}, "three"),
        ({"name": "two"}, "two"),
        ({"name": ("one", "five", "six")}, "one five"),
        ({"size": "20"}, "two five"),
        ({"size_min": 11}, "two five"),
        ({"size_max": 19}, "one"),
        ({"size_min": 10, "size_max": "19"}, "one"),
        ({"tag": "gold"}, "one two"),
        ({"tags": ["gold", "lts"]}, "two"),
        ({"members": "p2"}, "two"),
        ({"property-os": "debian"}, "one"),
        ({"property-cores": "4"}, "one"),
        ({"property-uefi": "true"}, "one"),
        ({"properties": {"os": "debian", "cores": 4}}, "one"),
        ({"property-os": "arch"}, ""),
        ({"checksums": {"sha256": "ab"}}, "two"),
        ({"visibility": None}, "two five"),
        ({"visibility": "public"}, "one"),
        ({"protected": False}, "one two"),
        ({"owner": "nobody"}, ""),
        ({"id": "a"}, "one"),
        ({"ref": "x:e"}, "five"),
        ({"changes-since": "2026-01-04T00:00:00Z"}, "two five"),
        ({"created_at": DAY[1]}, "one"),
    ],
)
def test_filters_choose_as_in_the_file_backend(filters: dict[str, Any], expected: str) -> None:
    found = names(filters=filters, sort_key="name")
    assert_that(sorted(found), Equals(sorted(expected.split())))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, "five two one"),
        ({"sort_dir": "asc"}, "one two five"),
        ({"sort_key": "size", "sort_dir": "asc"}, "one two five"),
        ({"sort_key": "size", "sort_dir": "desc"}, "five two one"),
        ({"sort_key": "updated_at", "sort_dir": "asc"}, "one five two"),
        ({"sort_key": "name", "sort_dir": "asc", "limit": 2}, "five one"),
        ({"sort_key": "name", "sort_dir": "asc", "limit": 0}, ""),
        ({"sort_key": "name", "sort_dir": "asc", "marker": "a"}, "two"),
        ({"sort_key": "name", "sort_dir": "asc", "marker": "x:e"}, "one two"),
        ({"sort_key": "name", "sort_dir": "asc", "marker": "five", "limit": 1}, "one"),
        ({"sort_key": "name", "sort_dir": "desc", "marker": "b"}, "one five"),
        ({"page_size": 1, "sort_key": "name"}, "two one five"),
    ],
)
def test_order_marker_and_limit(query: dict[str, Any], expected: str) -> None:
    assert_that(names(**query), Equals(expected.split()))


@pytest.mark.parametrize(
    "query",
    [
        {"filters": {"nonsense": 1}}, {"filters": {"property-": 1}}, {"filters": {"size": "big"}},
        {"filters": {"size": True}}, {"filters": {"size_min": -1}}, {"filters": {"status": "x"}},
        {"filters": {"hidden": "perhaps"}}, {"filters": {"name": 7}}, {"sort_key": "tags"},
        {"filters": {"changes-since": "yesterday"}}, {"filters": {"properties": "os"}},
        {"sort_dir": "up"}, {"limit": -1},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_any_image_is_asked_for(query: Any) -> None:
    def images() -> Any:
        raise AssertionError("asked for an image")
        yield

    with pytest.raises(InvalidImageRef):
        ImageQuery(**query).apply(images())


def test_a_marker_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidImageRef, match="gone"):
        names(marker="gone")


def test_a_limit_of_nothing_reads_nothing() -> None:
    def images() -> Any:
        raise AssertionError("asked for an image")
        yield

    assert_that(names(images(), limit=0), Equals([]))
