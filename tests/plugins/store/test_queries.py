"""Every query finds what it should, against a model that has the images in memory."""

from __future__ import annotations

import random
import re
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imagebroker_file import rows
from imagebroker_file.database import MARKER, Database
from imagebroker_file.listing import Listing
from imagebroker_file.rules import Caller
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Not

from imagebroker.plugin import Image, ImageQuery
from tests.plugins.store.store import ADMIN, ALICE, BOB, ID, NOBODY, Store

NAMES = [None, "", "a", "A", "b", "ü", "a%", "z" * 50]
PROJECTS = ["alice", "bob", "carol"]


def random_image(numbers: random.Random, n: int) -> Image:
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=numbers.randrange(8))
    status = numbers.choice(["active"] * 6 + ["queued", "deleted"])
    return Image(
        ref=f"file:{uuid.UUID(int=n * 7919)}",
        id=str(uuid.UUID(int=n * 7919)),
        name=numbers.choice(NAMES),
        status=status,
        visibility=numbers.choice(["public", "community", "shared", "shared", "private"]),
        owner=numbers.choice([None, *PROJECTS]),
        hidden=numbers.random() < 0.2,
        protected=numbers.random() < 0.5,
        members=tuple(numbers.sample(PROJECTS, numbers.randrange(3))),
        tags=tuple(numbers.sample(["x", "y", "z"], numbers.randrange(3))),
        size=numbers.choice([None, 0, 5, 10**12]),
        min_disk=numbers.randrange(3),
        min_ram=0,
        container_format="bare",
        checksums={"sha256": "0" * 64} if numbers.random() < 0.3 else {},
        created_at=moment,
        updated_at=moment + timedelta(microseconds=numbers.randrange(8)),
        deleted_at=moment if status == "deleted" else None,
        properties={
            name: numbers.choice(["1", 1, "true", True, "x"])
            for name in numbers.sample(["os", "arch", "a b"], numbers.randrange(4))
        },
    )


class Modelled(Store):
    """A store, and its images in memory."""

    images: list[Image]


@pytest.fixture(scope="module")
def modelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Modelled]:
    numbers = random.Random(3)
    images = [random_image(numbers, n) for n in range(150)]
    store = Modelled(tmp_path_factory.mktemp("modelled") / "store")
    store.images = images
    store.create(data=None)
    store.sql("DELETE FROM images")
    with closing(
        Database(store.directory / MARKER, timeout=5, durable=False, check=lambda: None)
    ) as database:
        with database.writing() as db:
            for image in images:
                rows.insert(db, image)
    yield store
    store.backend.close()


VALUES: dict[str, list[Any]] = {
    "name": [*NAMES, "absent", [None, "a"], ["a", "b"]],
    "status": ["active", "queued", "deleted", ["active", "deleted"], []],
    "visibility": ["public", "community", "shared", "private", ["public", "private"]],
    "owner": [None, "alice", "bob", ["alice", None]],
    "hidden": [True, False, "true", [True, False]],
    "protected": [True, "False"],
    "size": [None, 0, 5, "5"],
    "size_min": [0, 6],
    "size_max": [5],
    "min_disk": [0, [1, 2]],
    "tag": ["x", "absent"],
    "tags": ["y", ["x", "y"]],
    "members": ["alice", "bob"],
    "changes-since": [
        "2026-01-01T00:00:00.000005Z", datetime(2026, 1, 1, 0, 0, 0, 4),
        "2026-01-01T02:00:00.000004+02:00",
    ],
    "created_at": [datetime(2026, 1, 1, 0, 0, 0, 3, UTC)],
    "deleted_at": [None],
    "property-os": ["1", 1, True, "true", "absent"],
    "property-a b": ["x"],
    "properties": [{"os": "1", "arch": "x"}],
    "checksums": [{"sha256": "0" * 64}, {"md5": "0"}],
}  # fmt: skip


def matches(image: Image, caller: Caller, filters: Mapping[str, Any]) -> bool:
    wanted = {"status": "active", "hidden": False, **filters}
    return all(_holds(image, caller, name, value) for name, value in wanted.items())


def _holds(image: Image, caller: Caller, name: str, value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    if name in ("tag", "tags"):
        return all(tag in (image.tags or ()) for tag in values)
    if name == "members":
        known = caller.may_change(image) or value == caller.project
        return known and value in (image.members or ())
    if name == "properties":
        return all(_holds(image, caller, f"property-{k}", v) for k, v in value.items())
    if name.startswith("property-"):
        found = image.properties.get(name.removeprefix("property-"))
        return found is not None and rows.property_text(found) == rows.property_text(value)
    if name == "checksums":
        return all(image.checksums.get(k) == v for k, v in value.items())
    if name == "changes-since":
        since = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return image.updated_at >= (since if since.tzinfo else since.replace(tzinfo=UTC))
    if name in ("size_min", "size_max"):
        if image.size is None:
            return False
        return image.size >= value if name == "size_min" else image.size <= value
    plain = {"true": True, "False": False, "5": 5}
    return getattr(image, name) in [plain.get(v, v) if name != "name" else v for v in values]


def listed(images: list[Image], caller: Caller, query: ImageQuery) -> list[str]:
    asked = query.filters.get("visibility", [])
    found = [
        image
        for image in images
        if caller.sees(image)
        and matches(image, caller, query.filters)
        and (
            caller.is_admin
            or image.visibility != "community"
            or image.owner == caller.project is not None
            or "community" in (asked if isinstance(asked, list) else [asked])
        )
    ]

    def place(image: Image) -> tuple[Any, ...]:
        key = getattr(image, query.sort_key)
        text = key.encode() if isinstance(key, str) else key
        return (key is not None, text if key is not None else 0, image.id)

    found.sort(key=place, reverse=query.sort_dir == "desc")
    if query.marker is not None:
        (marker,) = [image for image in images if image.id == query.marker]
        found = [
            image
            for image in found
            if (place(image) > place(marker)) == (query.sort_dir == "asc")
            and place(image) != place(marker)
        ]
    return [str(image.id) for image in found][: query.limit]


SORT_KEYS = [
    "created_at", "updated_at", "name", "id", "size", "owner", "hidden", "status", "visibility",
    "min_disk", "deleted_at", "virtual_size",
]  # fmt: skip
FILTERS = st.lists(
    st.sampled_from([(name, value) for name, values in VALUES.items() for value in values]),
    max_size=3,
    unique_by=lambda pair: pair[0],
).map(dict)


@given(
    context=st.sampled_from([None, ADMIN, ALICE, BOB, NOBODY]),
    filters=FILTERS,
    sort_key=st.sampled_from(SORT_KEYS),
    sort_dir=st.sampled_from(["asc", "desc"]),
    marker=st.none() | st.integers(0, 149),
    limit=st.none() | st.integers(0, 20),
    page_size=st.none() | st.integers(1, 30),
)
@settings(max_examples=200, deadline=None)
def test_every_query_finds_what_it_should_in_its_order(
    modelled: Modelled, context: Any, marker: int | None, **how: Any
) -> None:
    store, images = modelled, modelled.images
    caller = Caller.of(context)
    seen = marker is not None and caller.sees(images[marker])
    query = ImageQuery(marker=images[marker].id if seen and marker is not None else None, **how)
    found = [str(image.id) for image in store.backend.get_all(context, query)]
    assert_that(found, Equals(listed(images, caller, query)))


@pytest.mark.parametrize("few", [0, 1, 3, 10**6])
def test_the_way_to_look_up_properties_makes_no_difference(modelled: Modelled, few: int) -> None:
    images = modelled.images
    for filters in ({"property-os": "1"}, {"property-os": "1", "tag": "x"}, {"members": "bob"}):
        for context in (None, ALICE, BOB):
            caller, query = Caller.of(context), ImageQuery(filters=filters)
            listing = Listing(caller, query, str, few)
            with closing(sqlite3.connect(modelled.directory / MARKER)) as db:
                db.row_factory = sqlite3.Row
                found = [row["id"] for row in listing.page(db, None, len(images) + 1)]
            assert_that(found, Equals(listed(images, caller, query)))


@pytest.mark.parametrize(
    ("sort_key", "after"),
    [
        *((key, None) for key in ("created_at", "updated_at", "name", "size", "id")),
        *((key, (0, ID)) for key in ("created_at", "updated_at", "name", "size", "id")),
        *((key, (None, ID)) for key in ("name", "size")),
    ],
)
def test_an_admins_page_is_read_off_an_index(modelled: Modelled, sort_key: str, after: Any) -> None:
    query = ImageQuery(sort_key=sort_key)
    plans = _plans(modelled, Listing(Caller(True, None), query, str), after)
    assert_that(plans, Not(Contains("TEMP B-TREE")))
    assert_that(plans, Contains("USING INDEX"))


@pytest.mark.parametrize(
    ("filters", "indexes"),
    [
        ({}, {"images_visible", "images_owned"}),
        ({"visibility": "public"}, {"images_visible"}),
        ({"status": ["active", "queued"]}, {"images_visible", "images_owned"}),
        ({"name": "a"}, {"images_named", "images_owned"}),
        ({"owner": "alice"}, {"images_owned"}),
    ],
)
def test_a_projects_page_is_merged_from_indexes(
    modelled: Modelled, filters: dict[str, Any], indexes: set[str]
) -> None:
    listing = Listing(Caller(False, "alice"), ImageQuery(filters=filters), str)
    plans = _plans(modelled, listing, None)
    assert_that(plans, Not(Contains("SCAN images")))
    assert_that(set(re.findall(r"SEARCH images USING INDEX (\w+)", plans)), Equals(indexes))
    # What is shared with a project is looked up and sorted: these are few, or it would not be.
    assert_that(plans.count("TEMP B-TREE"), Equals(plans.count("SEARCH found")))


def _plans(store: Store, listing: Listing, after: Any) -> str:
    plans: list[str] = []
    with closing(sqlite3.connect(store.directory / MARKER)) as db:
        for statement, params in listing.statements(db, after):
            plan = db.execute(f"EXPLAIN QUERY PLAN {statement}", [*params, 10])
            plans.extend(row[3] for row in plan)
    return "\n".join(plans)
