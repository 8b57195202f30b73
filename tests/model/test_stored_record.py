"""A record that a backend keeps as JSON comes back as it was; other people's text costs nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.plugin import ACTIVE, Image, records

TEXT = st.text(max_size=20)
MOMENTS = st.none() | st.datetimes(timezones=st.just(UTC))
IMAGES = st.builds(
    Image,
    ref=st.just("x:1"),
    name=st.none() | st.text(min_size=1, max_size=20),
    status=st.just(ACTIVE),
    hidden=st.booleans(),
    protected=st.booleans(),
    tags=st.lists(TEXT, max_size=3).map(tuple),
    disk_format=st.sampled_from([None, "raw", "qcow2"]),
    container_format=st.sampled_from([None, "bare"]),
    min_disk=st.none() | st.integers(0, 1 << 40),
    min_ram=st.none() | st.integers(0, 1 << 40),
    checksums=st.dictionaries(st.sampled_from(["sha256", "sha512", "md5"]), TEXT),
    properties=st.dictionaries(TEXT, TEXT, max_size=3),
    created_at=MOMENTS,
    updated_at=MOMENTS,
)


@given(IMAGES)
def test_a_record_comes_back_as_it_was(image: Image) -> None:
    text = records.text_of(records.values_of(image))
    back = Image("x:1", status=ACTIVE, **records.fields_in(records.values_in(text)))
    assert_that(back, Equals(image))


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*records.FIELDS, "checksums", "created_at"]), JSON))
def test_values_of_a_wrong_type_are_as_good_as_none(values: dict[str, Any]) -> None:
    text = json.dumps(values)
    image = Image("x:1", status=ACTIVE, **records.fields_in(records.values_in(text)))
    for number in (image.min_disk, image.min_ram):
        assert_that(number is None or number >= 0, Equals(True))
    records.text_of(records.values_of(image))


@pytest.mark.parametrize("text", [None, "", "nonsense", "[1]", '"x"', "[" * 100_000, "\ud800"])
def test_a_text_that_is_not_ours_has_no_values(text: str | None) -> None:
    assert_that(dict(records.values_in(text)), Equals({}))


def test_an_update_merges_properties_unless_they_are_purged() -> None:
    record = Image("x:1", name="old", properties={"a": "1", "b": "2"}, updated_at=datetime.now(UTC))
    merged = records.changed(record, {"properties": {"b": None, "c": "3"}, "name": ""}, False)
    assert_that((merged.name, dict(merged.properties)), Equals((None, {"a": "1", "c": "3"})))
    purged = records.changed(record, {"properties": {"c": "3"}}, True)
    assert_that(dict(purged.properties), Equals({"c": "3"}))
