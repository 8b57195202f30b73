"""Values of a server's that make no sense are refused in one place, and never by accident."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

from imagebroker.exceptions import MalformedAnswer
from imagebroker.model.image import Image
from imagebroker.plugin import peer

HUGE = 10**400

WRONG: dict[str, list[Any]] = {
    "size": [-1, HUGE, 2**63, True, "5", 1.5, [], {}],
    "min_ram": [-1, HUGE, "5"],
    "name": [5, HUGE, ["a"], {}, b"a", False],
    "protected": [1, "true", []],
    "tags": ["a", [1], {"a": 1}, 7, [None]],
    "members": ["a", [["a"]]],
    "checksums": [[], "a", {1: "a"}, None],
    "properties": [[], "a", {1: "a"}, None],
    "locations": [["http://h/x"], [{}]],
}


@pytest.mark.parametrize("name", WRONG)
def test_a_field_of_another_type_is_the_peers_mistake(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(MalformedAnswer) as caught:
            peer.image("http://h", "x:1", **{name: value})
        assert_that(len(str(caught.value)) < 400, Is(True))


def test_a_record_that_makes_sense_is_one() -> None:
    found = peer.image(
        "http://h", "x:1", name="a", size=5, tags=["a"], created_at="2026-01-02T03:04:05+02:00",
        updated_at=0, deleted_at=None, checksums={}, properties={"a": 1},
    )  # fmt: skip
    wanted = Image(
        ref="x:1", name="a", size=5, tags=("a",), properties={"a": 1}, checksums={},
        created_at=datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC),
        updated_at=datetime(1970, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    assert_that(found, Equals(wanted))


@pytest.mark.parametrize(
    "value",
    [
        "10000-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "-1", "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59", "", "x" * 100_000, HUGE, -HUGE, float("nan"), float("inf"),
        1e300, [], {}, True, 253402300800,
    ],
)  # fmt: skip
def test_a_time_that_no_calendar_has_is_unknown(value: Any) -> None:
    assert_that(peer.moment(value), Is(None))


@pytest.mark.parametrize(
    "value",
    [
        "Fri, 31 Dec 10000 23:59:59 GMT", "Fri, 31 Dec 99999999999999999999 23:59:59 GMT",
        "Fri, 31 Dec 2026 23:59:59 +99999999", "-1", "1e9", "nan", "9" * 11, "9" * 5000, "", None,
        "Mon", "x" * 100_000, "\x1b[31m", "٣",
    ],
)  # fmt: skip
def test_a_wish_to_be_asked_later_that_makes_no_sense_is_none(value: str | None) -> None:
    assert_that(peer.seconds_until(value), Is(None))


@pytest.mark.parametrize(
    "value", ["9999999999", "Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 -2359"]
)
def test_nobody_waits_for_more_than_a_day(value: str) -> None:
    found = peer.seconds_until(value)
    assert_that(found in (86400.0, None), Is(True))


DOCUMENTS: dict[str, bytes] = {
    "deep objects": b'{"a":' * 70 + b"1" + b"}" * 70,
    "very deep objects": b'{"a":' * 90_000 + b"1" + b"}" * 90_000,
    "deep lists": b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}",
    "many lists": json.dumps({"a": [[] for _ in range(100_001)]}).encode(),
    "a number of 5000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "an exponent": b'{"a": 1e999}',
    "NaN": b'{"a": NaN}',
    "the same key twice": b'{"a": 1, "a": 1}',
    "a lone surrogate": b'{"a": "\\ud800"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a list": b"[]",
    "nothing": b"",
}


@pytest.mark.promise("security-33")
@pytest.mark.parametrize("kind", DOCUMENTS)
def test_a_document_that_no_sane_server_sends_is_refused(kind: str) -> None:
    with pytest.raises(MalformedAnswer) as caught:
        peer.document(DOCUMENTS[kind], dict, "http://h")
    assert_that(len(str(caught.value)) < 400, Is(True))


def test_one_record_costs_itself_until_there_are_too_many(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def make(raw: dict[str, Any]) -> Image:
        return peer.image("http://h", f"x:{raw['id']}", size=raw["size"])

    records = [{"id": number, "size": -1 if number % 2 else 1} for number in range(10)]
    reader = peer.Reader(make, lambda raw: f"image {raw['id']}")
    assert_that(
        [each.ref for each in reader.read(records)], Equals([f"x:{n}" for n in range(0, 10, 2)])
    )
    warned = [record.getMessage() for record in caplog.records]
    assert_that(
        [text.removeprefix("skipping ").split(" in the list")[0] for text in warned],
        Equals([f"image {n}" for n in range(1, 10, 2)]),
    )
    with pytest.raises(MalformedAnswer):
        list(reader.read({"id": 1, "size": -1} for _ in range(1001)))
