"""An update changes what it names; what is deleted is gone."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from imagebroker_file.database import MARKER
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan, MatchesStructure, Not

from imagebroker.exceptions import (
    BackendError,
    Conflict,
    Gone,
    ImageBrokerError,
    ImageNotFound,
    InvalidImageRef,
    NotAuthorized,
    PolicyViolation,
    UploadFailed,
)
from imagebroker.plugin import Image
from tests.plugins.store.store import (
    ADMIN,
    ALICE,
    BOB,
    DATA,
    ID,
    SHA256,
    Store,
    failing,
    open_files,
)


def test_an_update_changes_what_it_names(store: Store, image: Image) -> None:
    changed = store.update(ID, name="other", tags=("x", "y"), properties={"b": "3", "c": "4"})
    assert_that(
        changed,
        Equals(
            replace(
                image, name="other", tags=("x", "y"), properties={"a": "1", "b": "3", "c": "4"},
                updated_at=changed.updated_at,
            )
        ),
    )  # fmt: skip
    assert image.updated_at is not None
    assert_that(changed.updated_at, GreaterThan(image.updated_at))
    assert_that(store.get(ID), Equals(changed))


def test_none_removes(store: Store, image: Image) -> None:
    changed = store.update(
        ID, name=None, disk_format=None, min_disk=None, min_ram=None, hidden=None, tags=None,
        owner=None, properties={"a": None},
    )  # fmt: skip
    assert_that(
        changed,
        MatchesStructure.byEquality(
            name=None, disk_format=None, min_disk=0, min_ram=0, hidden=False, tags=(), owner=None,
            properties={"b": "2"},
        ),
    )  # fmt: skip
    assert_that(store.update(ID, properties=None).properties, Equals({}))


def test_purge_props_removes_what_is_not_given(store: Store, image: Image) -> None:
    assert_that(store.update(ID, purge=True, properties={"c": "4"}).properties, Equals({"c": "4"}))
    assert_that(store.update(ID, purge=True, name="x").properties, Equals({}))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"id": str(uuid.uuid4())}, InvalidImageRef),
        ({"status": "queued"}, InvalidImageRef),
        ({"size": 4}, InvalidImageRef),
        ({"size": None}, InvalidImageRef),
        ({"checksums": {}}, InvalidImageRef),
        ({"created_at": datetime.now(UTC)}, InvalidImageRef),
        ({"locations": ()}, InvalidImageRef),
        ({"version": "x"}, InvalidImageRef),
        ({"unknown": "x"}, InvalidImageRef),
        ({"unknown": None}, InvalidImageRef),
        ({"protected": None}, PolicyViolation),
        ({"visibility": "secret"}, InvalidImageRef),
        ({"name": 5}, InvalidImageRef),
        ({"name": "good", "min_disk": "bad"}, InvalidImageRef),
        ({"name": "good", "data": b"other"}, Conflict),
    ],
)
def test_a_refused_update_changes_nothing(
    store: Store, image: Image, changes: dict[str, Any], kind: type[ImageBrokerError]
) -> None:
    with pytest.raises(kind) as caught:
        store.update(ID, **changes)
    assert_that(str(caught.value), Not(Equals("")))
    assert_that(store.get(ID), Equals(image))
    assert_that(store.read(ID), Equals(b"data"))
    store.is_whole()


def test_data_of_a_refused_update_is_not_even_begun(store: Store) -> None:
    store.create(ALICE, id=ID, data=None, visibility="community")
    data = iter([DATA])
    with pytest.raises(InvalidImageRef):
        store.update(ID, data=data, name=5)
    with pytest.raises(NotAuthorized):
        store.update(ID, BOB, data=data, name="x")
    assert_that(store.get(ID).status, Equals("queued"))
    assert_that(next(data), Equals(DATA))


def test_an_update_may_repeat_the_id(store: Store, image: Image) -> None:
    assert_that(store.update(ID, id=ID.upper(), name="x").name, Equals("x"))


@pytest.mark.parametrize("data", [failing(150_000), b"", iter([])])
def test_a_queued_image_stays_queued_and_as_it_was_if_its_data_fails(
    store: Store, data: Any
) -> None:
    image = store.create(id=ID, data=None, name="queued")
    with pytest.raises(UploadFailed):
        store.update(ID, data=data, name="changed")
    assert_that(store.get(ID), Equals(image))
    assert_that(store.update(ID, data=DATA).checksums, Equals({"sha256": SHA256}))
    store.is_whole()


def test_one_of_two_uploads_to_one_image_wins(store: Store) -> None:
    store.create(id=ID, data=None)

    def slow() -> Iterator[bytes]:
        yield DATA
        with pytest.raises(Conflict, match="saving"):
            store.update(ID, data=b"second")
        store.update(ID, name="named meanwhile")

    image = store.update(ID, data=slow())
    assert_that((image.name, image.size), Equals(("named meanwhile", len(DATA))))
    store.is_whole()


def test_an_image_that_is_deleted_while_its_data_arrives_stays_deleted(store: Store) -> None:
    def slow() -> Iterator[bytes]:
        yield DATA
        store.delete(ID)
        yield DATA

    with pytest.raises(UploadFailed, match="deleted during its upload"):
        store.create(id=ID, data=slow())
    with pytest.raises(Gone):
        store.get(ID)
    store.is_whole()


def test_updated_at_grows_also_when_the_clock_goes_back(store: Store, image: Image) -> None:
    store.sql("UPDATE images SET updated_at = updated_at + 86400000000")
    ahead = store.get(ID).updated_at
    assert ahead is not None
    changed = store.update(ID, name="x").updated_at
    assert_that(changed, GreaterThan(ahead))
    store.delete(ID)
    assert_that(store.get(ID, show_deleted=True).updated_at, GreaterThan(changed))


def test_a_deleted_image_is_gone_and_shown_on_request(store: Store, image: Image) -> None:
    store.delete(ID)
    for call in (store.get, store.read, store.delete, store.update):
        with pytest.raises(Gone) as caught:
            call(ID)
        assert_that(caught.value, MatchesStructure.byEquality(retryable=False))
    left = store.get(ID, show_deleted=True)
    assert_that(left, MatchesStructure.byEquality(status="deleted", deleted=True, name="n"))
    assert_that(left.deleted_at, Equals(left.updated_at))
    assert_that(store.list(), Equals([]))
    assert_that(store.ids(status="deleted", hidden=True), Equals({ID}))
    with pytest.raises(ImageNotFound, match="no such image"):
        store.get(ID, BOB, show_deleted=True)
    store.is_whole()


def test_a_running_download_finishes_after_a_delete(store: Store) -> None:
    image = store.create(data=DATA * 10)
    source = store.backend.open(None, store.ref(str(image.id)))
    chunks = source.read()
    first = next(chunks)
    store.delete(str(image.id))
    assert_that(store.files(), Equals([]))
    assert_that(bytes(first) + b"".join(chunks), Equals(DATA * 10))
    assert source.local_path is not None
    assert_that(source.local_path.read_bytes(), Equals(DATA * 10))
    source.close()


def test_a_protected_image_is_deleted_by_nobody(store: Store, image: Image) -> None:
    store.update(ID, ALICE, protected=True)
    for context in (None, ADMIN, ALICE):
        with pytest.raises(PolicyViolation, match="protected"):
            store.delete(ID, context)
    assert_that(store.read(ID), Equals(b"data"))
    store.update(ID, ALICE, protected=False)
    store.delete(ID, ALICE)


def test_data_that_could_not_be_removed_goes_with_the_next_upload(
    store: Store, image: Image
) -> None:
    store.delete(ID)
    # What a process leaves that is killed between the two steps of a delete.
    store.sql("UPDATE images SET purge = 1")
    (store.directory / "images" / ID).write_bytes(b"data")
    store.create()
    store.is_whole()


@pytest.mark.parametrize(
    "damage",
    [lambda p: p.unlink(), lambda p: os.truncate(p, 3), lambda p: p.write_bytes(b"longer data"),
     lambda p: (p.unlink(), p.mkdir()), lambda p: (p.unlink(), os.mkfifo(p)),
     lambda p: (p.rename(p.with_name("x")), p.symlink_to(p.with_name("x")))],
)  # fmt: skip
def test_damaged_bits_are_an_error_that_says_so(
    store: Store, image: Image, damage: Callable[[Path], object]
) -> None:
    damage(store.directory / "images" / ID)
    before = open_files()
    with pytest.raises(BackendError, match=f"the data of file:{ID}") as caught:
        store.read(ID)
    assert_that((caught.value.retryable, bool(caught.value.hint)), Equals((False, True)))
    assert_that(open_files(), Equals(before))


def test_a_database_that_is_none_is_an_error_that_says_so(store: Store, image: Image) -> None:
    store.backend.close()
    (store.directory / MARKER).write_bytes(b"no database at all" * 100)
    with pytest.raises(BackendError, match="not a database") as caught:
        Store(store.directory).get(ID)
    assert_that((caught.value.retryable, bool(caught.value.hint)), Equals((False, True)))
