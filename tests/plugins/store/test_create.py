"""An image is stored whole or not at all, and what was stored is what is read."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Is, LessThan, MatchesStructure

import imagebroker
from imagebroker.exceptions import (
    BackendError,
    Conflict,
    ImageBrokerError,
    ImageNotFound,
    InvalidImageRef,
    NotReady,
    QuotaExceeded,
    UnsupportedOperation,
    UploadFailed,
    VerificationError,
)
from imagebroker.plugin import Image, ImageData
from tests.plugins.store.store import ALICE, DATA, ID, SHA256, Store, failing, open_files


def test_an_image_is_created_with_its_data(store: Store) -> None:
    before = datetime.now(UTC)
    image = store.create(ALICE, DATA, name="debian", disk_format="raw", tags=("b", "a"))
    assert_that(
        image,
        MatchesStructure.byEquality(
            ref=f"file:{image.id}", name="debian", status="active", visibility="shared",
            owner="alice", hidden=False, protected=False, members=(), tags=("b", "a"),
            size=len(DATA), virtual_size=None, disk_format="raw", container_format="bare",
            min_disk=0, min_ram=0, checksums={"sha256": SHA256}, properties={}, deleted_at=None,
            version=f"sha256:{SHA256}", locations=None,
        ),
    )  # fmt: skip
    assert image.created_at is not None
    assert image.updated_at is not None
    assert_that(before <= image.created_at <= image.updated_at <= datetime.now(UTC), Is(True))
    assert_that(store.get(str(image.id)), Equals(image))
    assert_that(store.read(str(image.id)), Equals(DATA))


def test_an_instance_has_its_name_in_its_refs(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", instance="east")
    image = store.create(id=ID)
    assert_that((image.ref, store.read(ID)), Equals((f"file:east:{ID}", b"data")))
    assert_that(store.ids(ref=f"file:east:{ID}"), Equals({ID}))
    store.backend.close()


def test_an_image_without_data_is_queued_until_it_gets_some(store: Store) -> None:
    image = store.create(data=None, name="later")
    assert_that(image, MatchesStructure.byEquality(status="queued", size=None, version=None))
    with pytest.raises(NotReady) as caught:
        store.read(str(image.id))
    assert_that((caught.value.retryable, bool(caught.value.hint)), Equals((True, True)))
    done = store.update(str(image.id), data=DATA, properties={"a": "b"})
    assert_that(done, MatchesStructure.byEquality(status="active", name="later", size=len(DATA)))
    assert_that((done.properties, store.read(str(image.id))), Equals(({"a": "b"}, DATA)))


def test_every_source_of_data_is_taken(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    with (tmp_path / "file").open("rb") as file:
        for data in (DATA, tmp_path / "file", file, iter([DATA[:7], b"", DATA[7:]])):
            assert_that(store.create(data=data).checksums, Equals({"sha256": SHA256}))


def test_zeros_are_stored_as_holes_and_read_as_zeros(store: Store) -> None:
    data = bytes(1 << 20) + DATA + bytes(1 << 20)
    image = store.create(data=data)
    assert_that(store.read(str(image.id)), Equals(data))
    stored = store.directory / "images" / str(image.id)
    assert_that(stored.stat().st_blocks * 512, LessThan(1 << 20))


@pytest.mark.parametrize("taken_by", ["active", "queued", "deleted"])
def test_an_id_that_was_used_before_is_a_conflict(store: Store, taken_by: str) -> None:
    first = store.create(id=ID, data=None if taken_by == "queued" else b"first", name="first")
    if taken_by == "deleted":
        store.delete(ID)
    for data in (b"second", None):
        with pytest.raises(Conflict) as caught:
            store.create(id=ID.upper(), data=data)
        assert_that(bool(caught.value.hint), Is(True))
    assert_that(store.get(ID, show_deleted=True).name, Equals(first.name))
    store.is_whole()


def test_given_checksums_are_kept_and_computed(store: Store) -> None:
    md5 = hashlib.md5(DATA).hexdigest()
    image = store.create(data=DATA, checksums={"md5": md5.upper(), "sha256": SHA256})
    assert_that(image.checksums, Equals({"md5": md5, "sha256": SHA256}))


def test_data_with_another_checksum_than_given_is_not_stored(store: Store) -> None:
    with pytest.raises(VerificationError):
        store.create(id=ID, data=DATA, checksums={"sha512": "0" * 128})
    with pytest.raises(ImageNotFound):
        store.get(ID)
    store.is_whole()


def endless() -> Iterator[bytes]:
    while True:
        yield DATA


@pytest.mark.promise("upload-whole-or-nothing")
@pytest.mark.parametrize(
    ("data", "size"),
    [
        (failing(0), None), (failing(150_000), None), (failing(len(DATA)), None),
        (failing(len(DATA)), len(DATA)), (iter([DATA]), len(DATA) - 1),
        (iter([DATA]), len(DATA) + 1), (endless(), len(DATA)), (b"", None), (iter([]), None),
    ],
)  # fmt: skip
def test_data_that_fails_leaves_no_record_and_no_bits(store: Store, data: Any, size: Any) -> None:
    with pytest.raises(UploadFailed):
        store.create(id=ID, data=data, size=size)
    with pytest.raises(ImageNotFound):
        store.get(ID, show_deleted=True)
    assert_that(store.create(id=ID).status, Equals("active"))
    store.is_whole()


def test_the_cause_of_failing_data_is_the_callers_own_error(store: Store) -> None:
    with pytest.raises(UploadFailed) as caught:
        store.create(data=failing(10))
    assert_that(repr(caught.value.__cause__), Contains("the disk of the caller"))


def test_an_interrupt_in_the_data_leaves_nothing(store: Store) -> None:
    def interrupted() -> Iterator[bytes]:
        yield DATA
        raise KeyboardInterrupt

    before = open_files()
    with pytest.raises(KeyboardInterrupt):
        store.create(data=interrupted())
    store.backend.close()
    assert_that(open_files(), Equals(before))
    Store(store.directory).is_whole()


@pytest.mark.parametrize("data", [b"", None])
def test_an_empty_image_is_stored_where_size_0_is_given(store: Store, data: Any) -> None:
    image = store.create(data=data, size=0)
    assert_that(image, MatchesStructure.byEquality(status="active", size=0))
    assert_that(store.read(str(image.id)), Equals(b""))
    queued = store.create(data=None)
    assert_that(store.update(str(queued.id), data=b"", size=0).status, Equals("active"))


def test_a_full_file_system_is_a_quota_error_and_leaves_nothing(store: Store) -> None:
    store.create()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(QuotaExceeded) as caught:
            store.create(id=ID, data=DATA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert_that(getattr(caught.value, "errno", None), Equals(errno.EFBIG))
    assert_that(caught.value.hint, Contains("free some space"))
    with pytest.raises(ImageNotFound):
        store.get(ID)
    store.is_whole()


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"id": "no uuid"}, InvalidImageRef),
        ({"visibility": "secret"}, InvalidImageRef),
        ({"min_ram": -1}, InvalidImageRef),
        ({"min_disk": 1 << 63}, InvalidImageRef),
        ({"min_disk": True}, InvalidImageRef),
        ({"name": "\udcff"}, InvalidImageRef),
        ({"tags": "abc"}, InvalidImageRef),
        ({"tags": (1,)}, InvalidImageRef),
        ({"properties": {"x": object()}}, InvalidImageRef),
        ({"properties": {"x": float("nan")}}, InvalidImageRef),
        ({"properties": {"\udcff": "x"}}, InvalidImageRef),
        ({"checksums": {"crc32": "0"}}, InvalidImageRef),
        ({"size": 3}, InvalidImageRef),
        ({"locations": (imagebroker.plugin.Location("http://h/x"),)}, UnsupportedOperation),
        ({"data": None, "size": 3}, InvalidImageRef),
        ({"data": None, "checksums": {"sha256": SHA256}}, InvalidImageRef),
    ],
)
def test_a_record_that_makes_no_sense_is_refused_before_anything_is_made(
    store: Store, fields: dict[str, Any], kind: type[ImageBrokerError]
) -> None:
    with pytest.raises(kind):
        if fields.get("size") == 3 and "data" not in fields:
            store.backend.create(None, Image(ref="", size=3), ImageData(b"data"))
        store.create(**fields)
    assert_that(store.directory.exists(), Is(False))


@given(
    fields=st.fixed_dictionaries(
        {},
        optional={
            "name": st.text(st.characters(exclude_categories=["Cs"])),
            "tags": st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True),
            "min_disk": st.integers(0, 2**63 - 1),
            "hidden": st.booleans(),
            "visibility": st.sampled_from(["public", "community", "shared", "private"]),
            "properties": st.dictionaries(
                st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
                st.text(st.characters(exclude_categories=["Cs"]))
                | st.booleans() | st.integers() | st.lists(st.floats(allow_nan=False, allow_infinity=False)),
            ),
        },
    )
)  # fmt: skip
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_stored_is_what_is_read(store: Store, fields: dict[str, Any]) -> None:
    image = store.create(data=None, **fields)
    found = store.get(str(image.id))
    assert_that(found, Equals(image))
    for name, value in fields.items():
        expected = tuple(value) if name == "tags" else value
        assert_that(getattr(found, name), Equals(expected))


def test_reading_makes_no_store(store: Store) -> None:
    for call in (store.get, store.read, store.delete, store.update):
        with pytest.raises(ImageNotFound) as caught:
            call(ID)
        assert_that(caught.value.hint, Contains(f"no image store in {store.directory}"))
    with pytest.raises(ImageNotFound):
        store.update(ID, data=b"x")
    assert_that(store.list(), Equals([]))
    assert_that(store.directory.exists(), Is(False))


def test_a_store_is_made_for_its_user_only(store: Store) -> None:
    os.umask(old := os.umask(0))
    os.umask(0)
    try:
        store.create()
    finally:
        os.umask(old)
    for path in (store.directory, *store.directory.rglob("*")):
        assert_that(path.stat().st_mode & 0o077, Equals(0), str(path))


def test_a_store_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / "store")
    with pytest.raises(BackendError, match="cannot create") as caught:
        store.create()
    assert_that(caught.value.hint, Contains("store_dir"))
    with pytest.raises(BackendError):
        store.get(ID)


def test_a_store_that_was_removed_is_not_written_to(store: Store) -> None:
    store.create(id=ID)
    os.rename(store.directory, store.directory.with_name("old"))
    with pytest.raises(ImageNotFound):
        store.get(ID)
    assert_that(store.create(data=b"new").size, Equals(3))
    assert_that(store.list(), HasLength(1))
    with pytest.raises(ImageNotFound):
        store.get(ID)
