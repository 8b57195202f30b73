"""Malformed records are errors of the server."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Is, LessThan

from imagebroker.plugin import ImageBrokerError, MalformedAnswer, TransferError
from tests.plugins.glance_stub import (
    DATA,
    REF,
    OneImage,
    Stub,
    answer,
    asking,
    caller,
    opened,
    record,
    ref_of,
)

OTHER = "6f2504e0-4f89-41d3-9a0c-0305e82c3302"
MALFORMED = {
    "not JSON": b"<html>login</html>",
    "a list": b"[]",
    "a number": b"7",
    "duplicate keys": json.dumps(record()).encode()[:-1] + b', "size": 1}',
    "NaN": json.dumps({**record(), "size": float("nan")}).encode(),
    "infinite": json.dumps(record()).encode().replace(b'"min_ram": 0', b'"min_ram": 1e999'),
    "a very long number": json.dumps(record()).encode().replace(b"256000", b"9" * 10_000),
    "deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep lists": b"[" * 90_000,
    "many objects": b'{"a":[' + b",".join([b"{}"] * 200_000) + b"]}",
    "lone surrogate": json.dumps(record()).encode().replace(b'"stub"', b'"\\ud800"'),
    "bad UTF-8": b'{"id": "\xff"}',
    "size is text": json.dumps(record(size="7")).encode(),
    "size is true": json.dumps(record(size=True)).encode(),
    "size is negative": json.dumps(record(size=-1)).encode(),
    "size is a fraction": json.dumps(record(size=1.5)).encode(),
    "status is a list": json.dumps(record(status=["active"])).encode(),
    "tags is text": json.dumps(record(tags="a")).encode(),
    "tags hold numbers": json.dumps(record(tags=[1])).encode(),
    "hash is a number": json.dumps(record(os_hash_value=7)).encode(),
    "hash is an object": json.dumps(record(os_hash_algo={})).encode(),
    "id of another image": json.dumps(record(id=OTHER)).encode(),
    "no id": json.dumps(record(id=None)).encode(),
    "longer than any record": json.dumps(record(x="y" * 3_000_000)).encode(),
    "empty": b"",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_record_is_an_error_of_the_server(
    glance: tuple[Stub, OneImage], name: str
) -> None:
    stub, image = glance
    image.show = lambda request, _: answer(200, MALFORMED[name], "Content-Type: application/json")
    with pytest.raises(TransferError) as caught:
        asking(stub).open(caller(), REF)
    assert_that(len(str(caught.value)), LessThan(1100))


def test_a_web_page_in_place_of_a_record_is_called_one(glance: tuple[Stub, OneImage]) -> None:
    """As a login page, or a proxy, answers; not an error in the syntax of JSON."""
    stub, image = glance
    image.show = lambda request, _: answer(200, MALFORMED["not JSON"], "Content-Type: text/html")
    with pytest.raises(MalformedAnswer) as caught:
        asking(stub).get(caller(), REF)
    assert_that(str(caught.value), Contains("web page"))
    assert_that(caught.value.hint, Contains("proxies"))


def test_unknown_attributes_are_properties_and_garbled_times_are_unknown(
    glance: tuple[Stub, OneImage],
) -> None:
    stub, image = glance
    image.record.update(updated_at="the day after", created_at="2026-01-02T03:04:05", os_type="x",
                        new_thing={"a": [1]})  # fmt: skip
    found = asking(stub).get(caller(), REF)
    assert_that(dict(found.properties), Equals({"os_type": "x", "new_thing": {"a": [1]}}))
    assert_that(found.updated_at, Is(None))
    assert_that(found.created_at, Equals(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)))


def test_an_unknown_size_stays_unknown(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    image.record["size"] = None
    with opened(asking(stub)) as source:
        assert_that(source.image.size, Is(None))
        assert_that(b"".join(source.read()), Equals(DATA))


def test_locations_are_given_once_each_and_only_when_asked_for(
    glance: tuple[Stub, OneImage],
) -> None:
    stub, image = glance
    image.record.update(
        direct_url="file:///a",
        locations=[{"url": "file:///a", "metadata": {"mountpoint": "/"}}, {"url": "http://b/"}],
    )
    backend = asking(stub)
    assert_that(backend.get(caller(), REF).locations, Is(None))
    found = backend.get(caller(), REF, include_locations=True).locations
    assert_that([each.url for each in found], Equals(["file:///a", "http://b/"]))
    for evil in ([{"metadata": {}}], ["file:///a"], {"url": "x"}, [{"url": 7}]):
        image.record["locations"] = evil
        with pytest.raises(TransferError):
            backend.get(caller(), REF, include_locations=True)


@pytest.mark.promise("security-25")
def test_ids_reach_the_path_only_as_uuids(glance: tuple[Stub, OneImage]) -> None:
    for text in ("../../v3/tokens", "x?y=1", "x%2f.."):
        with pytest.raises(ImageBrokerError):
            ref_of(text)
    assert_that(glance[0].requests, HasLength(0))
