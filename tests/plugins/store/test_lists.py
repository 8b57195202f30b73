"""What a list shows, and that it has no duplicates and no gaps."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, HasLength

from imagebroker.exceptions import InvalidImageRef
from imagebroker.plugin import ImageQuery
from tests.plugins.store.store import ALICE, BOB, ID, Store


def test_lists_show_active_images_that_are_not_hidden(store: Store) -> None:
    active = str(store.create().id)
    hidden = str(store.create(hidden=True).id)
    queued = str(store.create(data=None).id)
    deleted = str(store.create().id)
    store.delete(deleted)
    assert_that(store.ids(), Equals({active}))
    assert_that(store.ids(hidden=True), Equals({hidden}))
    assert_that(store.ids(hidden=[True, False]), Equals({active, hidden}))
    assert_that(store.ids(status="queued"), Equals({queued}))
    assert_that(store.ids(status="deleted"), Equals({deleted}))
    assert_that(store.ids(status=["active", "deleted"]), Equals({active, deleted}))
    everything = datetime(2000, 1, 1, tzinfo=UTC)
    assert_that(store.ids(**{"changes-since": everything}), Equals({active}))


@pytest.mark.parametrize(
    "query",
    [
        {"filters": {"nmae": "x"}}, {"filters": {"property-": "x"}}, {"filters": {7: "x"}},
        {"filters": {"status": "activ"}}, {"filters": {"visibility": None}},
        {"filters": {"size": "big"}}, {"filters": {"size": -1}}, {"filters": {"size_min": 1 << 70}},
        {"filters": {"size": True}}, {"filters": {"hidden": "maybe"}}, {"filters": {"hidden": 1}},
        {"filters": {"name": 5}}, {"filters": {"name": "\udcff"}}, {"filters": {"tag": None}},
        {"filters": {"changes-since": "yesterday"}}, {"filters": {"created_at": 5}},
        {"filters": {"properties": "x"}}, {"filters": {"property-x": object()}},
        {"filters": {"locations": "x"}}, {"filters": {"checksums": {"md5": 5}}},
        {"sort_key": "properties"}, {"sort_key": "id; DROP TABLE images"}, {"sort_dir": "up"},
        {"limit": -1}, {"limit": True}, {"limit": "5"}, {"page_size": 0}, {"marker": ID},
        {"marker": "x' OR 1"},
    ],
)  # fmt: skip
def test_a_query_that_makes_no_sense_is_refused_at_the_call(
    store: Store, query: dict[str, Any]
) -> None:
    store.create()
    with pytest.raises(InvalidImageRef):
        store.backend.get_all(None, ImageQuery(**query))


def test_the_callers_filters_stay_as_they_are(store: Store) -> None:
    filters = {"name": "x", "property-a": "b", "changes-since": "2026-01-01T00:00:00Z"}
    store.list(filters=filters)
    assert_that(filters, HasLength(3))


def test_a_marker_that_the_caller_may_not_see_is_unknown(store: Store) -> None:
    image = store.create(ALICE, visibility="private")
    with pytest.raises(InvalidImageRef):
        store.list(BOB, marker=image.id)
    assert_that(store.list(ALICE, marker=image.id), Equals([]))


@pytest.mark.parametrize("sort_key", ["created_at", "updated_at", "name", "id", "size"])
def test_a_list_has_no_duplicates_and_no_gaps_while_images_come_and_go(
    store: Store, sort_key: str
) -> None:
    numbers = random.Random(7)
    kept = [str(store.create(data=None, name=f"{n:03}").id) for n in range(60)]
    store.sql("UPDATE images SET status = 'active', size = number")
    seen: list[str] = []
    query = ImageQuery(sort_key=sort_key, sort_dir="asc", page_size=7)
    for image in store.backend.get_all(None, query):
        seen.append(str(image.id))
        victim = numbers.choice(kept)
        match numbers.randrange(4):
            case 0:
                store.create(name=f"{numbers.randrange(60):03}")
            case 1:
                store.update(victim, name=f"{numbers.randrange(60):03}")
            case 2 if len(kept) > 30 and victim not in seen:
                store.delete(victim)
                kept.remove(victim)
        if len(seen) > 200:  # each new image is shown in its turn, as long as there are new ones
            break
    assert_that(seen, HasLength(len(set(seen))))
    if sort_key in ("created_at", "id", "size"):
        assert_that(set(kept) - set(seen), Equals(set()))


def test_a_list_goes_on_where_its_marker_was_deleted(store: Store) -> None:
    ids = [str(store.create(name=str(n)).id) for n in range(5)]
    store.delete(ids[1])
    found = store.list(marker=ids[1], sort_dir="asc")
    assert_that([image.id for image in found], Equals(ids[2:]))


def test_a_list_that_is_not_read_to_its_end_holds_nothing(store: Store) -> None:
    for _ in range(5):
        store.create()
    images = store.backend.get_all(None, ImageQuery(page_size=2))
    next(images)
    store.sql("VACUUM")  # would have to wait for an open read
    store.sql("PRAGMA wal_checkpoint(TRUNCATE)")
    assert_that(list(images), HasLength(4))
