"""The embedded store: the rules of records, and that nothing is lost or half there."""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import random
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imagebroker_file import FileBackend, rows, schema
from imagebroker_file.bits import Bits
from imagebroker_file.database import MARKER, Database
from imagebroker_file.listing import Listing
from imagebroker_file.rules import Caller
from oslo_context.context import RequestContext
from testtools.assertions import assert_that
from testtools.matchers import (
    Contains,
    Equals,
    GreaterThan,
    HasLength,
    Is,
    LessThan,
    MatchesStructure,
    Not,
)

import imagebroker
from imagebroker.exceptions import (
    BackendError,
    ConfigError,
    Conflict,
    Gone,
    ImageBrokerError,
    ImageNotFound,
    InvalidImageRef,
    NotAuthorized,
    NotReady,
    PolicyViolation,
    QuotaExceeded,
    UnsupportedOperation,
    UploadFailed,
    VerificationError,
)
from imagebroker.model.reference import parse
from imagebroker.plugin import BackendHost, Image, ImageData, ImageQuery, Options

DATA = random.Random(1).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
ID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"

ADMIN = RequestContext(project_id="root", is_admin=True)
ALICE = RequestContext(project_id="alice")
BOB = RequestContext(project_id="bob")
NOBODY = RequestContext()


class Store:
    """A store as tests speak of it: through the backend, by id."""

    def __init__(self, directory: Path, **host: Any) -> None:
        self.directory = directory
        values = {"store_dir": str(directory), "allowed_paths": [], "fsync": False}
        self.backend = FileBackend(BackendHost("file", Options(values), **host))

    def create(self, context: Any = None, data: Any = b"data", **fields: Any) -> Image:
        size = fields.get("size")
        if data is None:
            return self.backend.create(context, Image(ref="", **fields), None)
        with closing(ImageData(data, size)) as upload:
            return self.backend.create(context, Image(ref="", **fields), upload)

    def get(self, image_id: str, context: Any = None, show_deleted: bool = False) -> Image:
        return self.backend.get(context, self.ref(image_id), show_deleted=show_deleted)

    def read(self, image_id: str, context: Any = None) -> bytes:
        source = self.backend.open(context, self.ref(image_id))
        try:
            return b"".join(source.read())
        finally:
            source.close()

    def list(self, context: Any = None, /, **query: Any) -> list[Image]:
        return list(self.backend.get_all(context, ImageQuery(**query)))

    def ids(self, context: Any = None, /, **filters: Any) -> set[str]:
        return {str(image.id) for image in self.list(context, filters=filters)}

    def update(
        self, image_id: str, context: Any = None, data: Any = None, purge: bool = False, **c: Any
    ) -> Image:
        if data is None:
            return self.backend.update(context, self.ref(image_id), c, None, purge)
        with closing(ImageData(data, c.get("size"))) as upload:
            return self.backend.update(context, self.ref(image_id), c, upload, purge)

    def delete(self, image_id: str, context: Any = None) -> None:
        self.backend.delete(context, self.ref(image_id))

    def ref(self, image_id: str) -> Any:
        return parse(self.backend.host.ref(image_id))

    def files(self) -> list[str]:
        """The files of bits, whole and unfinished."""
        found = [*self.directory.glob("images/*"), *self.directory.glob("incoming/*")]
        return sorted(str(path.relative_to(self.directory)) for path in found)

    def sql(self, statement: str, *values: Any) -> list[Any]:
        with closing(sqlite3.connect(self.directory / MARKER)) as db, db:
            return db.execute(statement, values).fetchall()

    def is_whole(self) -> None:
        """Every active image has its bits, nothing else is there, and the database is sound."""
        active = self.list(filters={"hidden": [True, False]})
        for image in active:
            assert_that(hashlib.sha256(self.read(str(image.id))).hexdigest(),
                        Equals(image.checksums["sha256"]))  # fmt: skip
        assert_that(self.files(), Equals(sorted(f"images/{image.id}" for image in active)))
        assert_that(self.sql("PRAGMA integrity_check"), Equals([("ok",)]))
        assert_that(self.sql("SELECT id FROM images WHERE upload IS NOT NULL"), Equals([]))


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A directory where fsync costs nothing, if there is one."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


@pytest.fixture
def store(in_memory: Path) -> Iterator[Store]:
    store = Store(in_memory / "store")
    yield store
    store.backend.close()


def open_files() -> list[str]:
    gc.collect()  # what an earlier test left to the garbage collector must not go in between
    return sorted(os.listdir("/proc/self/fd"))


# Create


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


def failing(after: int) -> Iterator[bytes]:
    yield DATA[:after]
    raise ValueError("the disk of the caller")


def endless() -> Iterator[bytes]:
    while True:
        yield DATA


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


# A store that does not exist yet


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
    with pytest.raises(BackendError, match="cannot be made") as caught:
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


# Who may see and change what


@pytest.fixture
def peopled(store: Store) -> Store:
    """Images named by their visibility, each of alice's; bob is a member of two."""
    for visibility in ("public", "community", "shared", "private"):
        context = ADMIN if visibility == "public" else ALICE
        store.create(context, name=visibility, visibility=visibility, owner="alice")
    store.create(ALICE, name="for bob", members=("bob", "carol"))
    store.create(ALICE, name="private with member", visibility="private", members=("bob",))
    store.create(None, name="nobody's")
    return store


def names(images: list[Image]) -> set[str]:
    return {str(image.name) for image in images}


ALL = {"public", "community", "shared", "private", "for bob", "private with member", "nobody's"}


@pytest.mark.parametrize(
    ("context", "seen"),
    [
        (None, ALL),
        (ADMIN, ALL),
        (ALICE, ALL - {"nobody's"}),
        (BOB, {"public", "community", "for bob"}),
        (NOBODY, {"public", "community"}),
    ],
)
def test_callers_see_what_is_public_theirs_or_shared_with_them(
    peopled: Store, context: Any, seen: set[str]
) -> None:
    for image in peopled.list():
        if image.name in seen:
            assert_that(peopled.get(str(image.id), context).id, Equals(image.id))
            assert_that(peopled.read(str(image.id), context), Equals(b"data"))
        else:
            with pytest.raises(ImageNotFound, match="no such image"):
                peopled.read(str(image.id), context)
    own = seen if context not in (BOB, NOBODY) else seen - {"community"}
    assert_that(names(peopled.list(context)), Equals(own))
    community = peopled.list(context, filters={"visibility": "community"})
    assert_that(names(community), Equals({"community"}))


def test_what_may_not_be_seen_looks_like_what_is_not_there(peopled: Store) -> None:
    (private,) = peopled.ids(name="private")
    with pytest.raises(ImageNotFound) as hidden:
        peopled.get(private, BOB)
    with pytest.raises(ImageNotFound) as absent:
        peopled.get(ID, BOB)
    assert_that(str(hidden.value).replace(private, ID), Equals(str(absent.value)))
    assert_that((type(hidden.value), hidden.value.hint), Equals((ImageNotFound, absent.value.hint)))
    for call in (peopled.delete, peopled.update):
        with pytest.raises(ImageNotFound):
            call(private, BOB)


@pytest.mark.parametrize("name", ["public", "community", "for bob"])
def test_only_owner_and_admin_change_an_image(peopled: Store, name: str) -> None:
    (image_id,) = peopled.ids(name=name, visibility=["public", "community", "shared"])
    for context in (BOB, NOBODY):
        if context is NOBODY and name == "for bob":
            continue
        for change in (
            lambda c: peopled.update(image_id, c, name="x"),
            lambda c: peopled.update(image_id, c, members=["bob", "dave"]),
            lambda c: peopled.delete(image_id, c),
        ):
            with pytest.raises(NotAuthorized):
                change(context)
    assert_that(peopled.update(image_id, ALICE, min_ram=1).min_ram, Equals(1))
    assert_that(peopled.update(image_id, ADMIN, min_ram=2).min_ram, Equals(2))


def test_what_belongs_to_nobody_does_not_belong_to_callers_without_a_project(
    store: Store,
) -> None:
    store.create(None, id=ID, visibility="public")
    with pytest.raises(NotAuthorized):
        store.delete(ID, NOBODY)
    store.delete(ID, ADMIN)


def test_with_whom_an_image_is_shared_is_its_owners_business(peopled: Store) -> None:
    (image_id,) = peopled.ids(name="for bob")
    assert_that(peopled.get(image_id, ALICE).members, Equals(("bob", "carol")))
    assert_that(peopled.get(image_id, BOB).members, Equals(("bob",)))
    assert_that(peopled.list(BOB, filters={"name": "for bob"})[0].members, Equals(("bob",)))
    assert_that(peopled.ids(BOB, members="carol"), Equals(set()))
    assert_that(peopled.ids(BOB, members="bob"), Equals({image_id}))
    assert_that(peopled.ids(ALICE, members="carol"), Equals({image_id}))


def test_only_an_admin_makes_an_image_public(store: Store) -> None:
    with pytest.raises(NotAuthorized):
        store.create(ALICE, visibility="public")
    image = store.create(ALICE)
    with pytest.raises(NotAuthorized):
        store.update(str(image.id), ALICE, visibility="public")
    store.update(str(image.id), ALICE, visibility="community")
    store.update(str(image.id), ADMIN, visibility="public")
    assert_that(store.update(str(image.id), ALICE, name="x").visibility, Equals("public"))
    assert_that(store.update(str(image.id), ALICE, visibility=None).visibility, Equals("shared"))


def test_only_an_admin_gives_an_image_another_owner(store: Store) -> None:
    with pytest.raises(NotAuthorized):
        store.create(ALICE, owner="bob")
    assert_that(store.create(ALICE, owner="alice").owner, Equals("alice"))
    image = store.create(ADMIN, owner="alice")
    assert_that(image.owner, Equals("alice"))
    with pytest.raises(NotAuthorized):
        store.update(str(image.id), ALICE, owner="bob")
    assert_that(store.update(str(image.id), None, owner="bob").owner, Equals("bob"))
    assert_that(store.create(None).owner, Is(None))


# Update


@pytest.fixture
def image(store: Store) -> Image:
    return store.create(
        ALICE, id=ID, name="n", disk_format="raw", min_disk=1, min_ram=2, hidden=True, tags=("t",),
        properties={"a": "1", "b": "2"},
    )  # fmt: skip


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

    with pytest.raises(UploadFailed, match="deleted while its data arrived"):
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


# Delete


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


# Open


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


# Lists


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


# Lists, against a model that has them in memory

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
def test_the_way_to_look_up_properties_makes_no_difference(
    modelled: Modelled, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagebroker_file.listing.FEW", few)
    store, images = modelled, modelled.images
    for filters in ({"property-os": "1"}, {"property-os": "1", "tag": "x"}, {"members": "bob"}):
        for context in (None, ALICE, BOB):
            query = ImageQuery(filters=filters, page_size=3)
            found = [str(image.id) for image in store.backend.get_all(context, query)]
            assert_that(found, Equals(listed(images, Caller.of(context), query)))


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
        streams = [listing._narrowed(db, stream) for stream in listing._streams]
        for span in listing._spans(after):
            statement, params = listing._statement(streams, span, 10)
            plan = db.execute(f"EXPLAIN QUERY PLAN {statement}", params)
            plans.extend(row[3] for row in plan)
    return "\n".join(plans)


# Several processes and threads

CREATE = """
import sys
from pathlib import Path
from imagebroker.plugin import Image, ImageData
from tests.plugins.test_store import Store
store, worker, count = Store(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
from concurrent.futures import ThreadPoolExecutor
from imagebroker.exceptions import Conflict
def create(n):
    try:
        name = f"{worker}-{n}"
        store.create(data=iter([name.encode()] * 50), name=name, properties={"n": n})
        store.create(id=f"00000000-0000-0000-0000-{n:012}", data=name.encode())
        return 1
    except Conflict:
        return 0
with ThreadPoolExecutor(3) as pool:
    print(sum(pool.map(create, range(count))))
store.backend.close()
"""


def python(program: str, *arguments: object, **how: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **how)


def test_processes_and_threads_that_create_at_once_lose_nothing(store: Store) -> None:
    workers = [python(CREATE, store.directory, name, 25) for name in ("a", "b")]
    won = [int(worker.communicate(timeout=60)[0]) for worker in workers]
    assert_that(sum(won), Equals(25))  # each chosen id went to one of them
    images = store.list()
    assert_that(images, HasLength(75))
    named = {image.name for image in images if image.name}
    assert_that(named, Equals({f"{worker}-{n}" for worker in "ab" for n in range(25)}))
    store.is_whole()


def test_threads_that_update_one_image_lose_nothing(store: Store, image: Image) -> None:
    def update(n: int) -> None:
        store.update(ID, properties={f"p{n}": n})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(update, range(60)))
    assert_that(
        store.get(ID).properties, Equals({"a": "1", "b": "2"} | {f"p{n}": n for n in range(60)})
    )


def test_no_descriptor_is_left_when_all_threads_are_done(store: Store) -> None:
    before = open_files()

    def work(n: int) -> None:
        created = store.create(data=DATA)
        store.read(str(created.id))
        store.list(limit=3)
        with pytest.raises(ImageNotFound):
            store.get(ID)
        if n % 2:
            store.delete(str(created.id))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    store.backend.close()
    assert_that(open_files(), Equals(before))


def test_a_closed_store_opens_nothing_again(store: Store, image: Image) -> None:
    before = open_files()
    images = store.backend.get_all(None, ImageQuery(filters={"hidden": True}))
    store.backend.close()
    store.backend.close()
    for call in (lambda: next(images), lambda: store.get(ID)):
        with pytest.raises(BackendError, match="closed"):
            call()
    assert_that(len(open_files()), LessThan(len(before) + 1))


def test_a_forked_process_uses_connections_of_its_own(store: Store, image: Image) -> None:
    store.get(ID)
    assert_that(database_files(store), GreaterThan(0))
    child = os.fork()
    if child == 0:
        try:
            inherited = database_files(store)
            store.update(ID, name="from the child")
            os._exit(0 if inherited == 0 else 1)
        except BaseException:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert_that(os.waitstatus_to_exitcode(status), Equals(0))
    assert_that(store.get(ID).name, Equals("from the child"))
    assert_that(store.update(ID, name="from the parent").name, Equals("from the parent"))
    store.backend.close()
    Store(store.directory).is_whole()


def database_files(store: Store) -> int:
    links = []
    for number in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            pass  # that of the listing itself
    return sum(link.startswith(str(store.directory)) for link in links)


def test_a_store_that_is_written_to_without_end_is_a_retryable_error(tmp_path: Path) -> None:
    from imagebroker.plugin import Limits

    store = Store(tmp_path / "store", limits=Limits(stall_timeout=0.2))
    store.create(id=ID)
    with closing(sqlite3.connect(store.directory / MARKER, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        begin = time.monotonic()
        with pytest.raises(BackendError, match="locked") as caught:
            store.update(ID, name="x")
        assert_that(time.monotonic() - begin, LessThan(2))
        assert_that(caught.value.retryable, Is(True))
        assert_that(store.get(ID).name, Is(None))  # readers do not wait for writers
    store.backend.close()


# Killed processes

UPLOAD = """
import sys
from pathlib import Path
from tests.plugins.test_store import DATA, ID, Store
store = Store(Path(sys.argv[1]))
def data():
    yield DATA
    print("uploading", flush=True)
    sys.stdin.read()
    yield DATA
if sys.argv[2] == "create":
    store.create(id=ID, data=data())
else:
    store.update(ID, data=data())
print("done", flush=True)
"""


@pytest.mark.parametrize("verb", ["create", "update"])
def test_what_a_killed_upload_left_is_removed_by_the_next_one(store: Store, verb: str) -> None:
    store.create(name="bystander")
    if verb == "update":
        store.create(id=ID, data=None, name="queued")
    process = python(UPLOAD, store.directory, verb, stdin=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert_that(process.stdout.readline(), Equals("uploading\n"))
        store.create(name="while it lives")
        assert_that(store.get(ID).status, Equals("saving"))
        assert_that(len(store.files()), Equals(3))
    finally:
        process.kill()
        process.communicate()
    assert_that(store.get(ID).status, Equals("saving"))
    store.create(name="after its death")
    if verb == "create":
        with pytest.raises(ImageNotFound):
            store.get(ID, show_deleted=True)
        assert_that(store.create(id=ID, data=DATA).size, Equals(len(DATA)))
    else:
        assert_that(store.get(ID), MatchesStructure.byEquality(status="queued", name="queued"))
        assert_that(store.update(ID, data=DATA).size, Equals(len(DATA)))
    store.is_whole()


def test_an_upload_that_lives_is_not_disturbed_by_others(store: Store) -> None:
    store.create()
    process = python(UPLOAD, store.directory, "create", stdin=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    for _ in range(3):
        store.create()
    out, _ = process.communicate("")
    assert_that(out, Equals("done\n"))
    assert_that(store.read(ID), Equals(DATA * 2))
    store.is_whole()


def test_what_does_not_belong_among_uploads_stops_none(store: Store) -> None:
    store.create()
    incoming = store.directory / "incoming"
    (incoming / "folder").mkdir()
    (incoming / "link").symlink_to("/etc/passwd")
    os.mkfifo(incoming / "fifo")
    store.create()
    assert_that((incoming / "folder").is_dir(), Is(True))
    assert_that(Path("/etc/passwd").exists(), Is(True))


def test_an_upload_that_a_sweep_took_before_it_was_locked_begins_again(store: Store) -> None:
    store.create()
    bits = Bits(store.directory, "store_dir", fsync=False)
    with bits.receive() as upload:
        assert_that(bits.is_live(upload.token), Is(True))
        upload.path.unlink()
        assert_that(upload.lock(), Is(False))
        assert_that(bits.is_live(upload.token), Is(False))


#: Calls of the operating system on the way of a create, an update with data, and a delete.
CALLS = ("open", "pwrite", "ftruncate", "fsync", "rename", "link", "unlink", "mkdir", "close")


def kill_at(number: int) -> None:
    """This process dies when it is about to make the n-th of these calls."""
    count = 0

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return counted

    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))


def live_until_call(number: int, store: Store) -> None:
    """A whole life of images, with everything on disk, in a process that dies on its way."""
    kill_at(number)
    durable = Options({**store.backend.host.options, "fsync": True})
    store.backend = FileBackend(BackendHost("file", durable))
    store.create(data=DATA, name="created")
    store.create(id=ID, data=None, name="queued")
    store.update(ID, data=DATA)
    store.delete(ID)
    os._exit(0)


def test_a_process_that_is_killed_at_any_step_leaves_a_whole_store(in_memory: Path) -> None:
    number, finished = 0, False
    while not finished:
        number += 1
        store = Store(in_memory / str(number))
        child = os.fork()
        if child == 0:
            try:
                live_until_call(number, store)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        assert_that(code in (0, -signal.SIGKILL), Is(True), f"it ended with {code}")
        finished = code == 0
        store.create(name="next")
        store.is_whole()
        assert_that(names(store.list()) - {"created", "queued", "next"}, Equals(set()))
        if finished:
            assert_that(names(store.list()), Equals({"created", "next"}))
        store.backend.close()
    assert_that(number, GreaterThan(30))


# The version of the database

VERSION_1 = """
INSERT INTO images VALUES (1, '3f2504e0-4f89-11d3-9a0c-0305e82c3301', 'old', 'active', 'shared',
    'alice', 0, 1, 4, NULL, 'raw', 'bare', 1, 2,
    '{"sha256": "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"}',
    1767225600000000, 1767225600000001, NULL,
    'sha256:3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7', NULL, NULL, 0);
INSERT INTO properties VALUES (1, 'os', '"linux"', 'linux');
INSERT INTO tags VALUES (1, 'tag');
INSERT INTO members VALUES (1, 'bob');
PRAGMA application_id = 1768776306;
PRAGMA user_version = 1;
"""


def test_a_store_of_version_1_is_read(store: Store) -> None:
    (store.directory / "images").mkdir(parents=True)
    (store.directory / "images" / ID).write_bytes(b"data")
    with closing(sqlite3.connect(store.directory / MARKER)) as db:
        for statement in schema._VERSION_1:
            db.execute(statement)
        db.executescript(VERSION_1)
    assert_that(
        store.get(ID, ALICE),
        MatchesStructure.byEquality(
            name="old", owner="alice", protected=True, size=4, min_disk=1, min_ram=2, tags=("tag",),
            members=("bob",), properties={"os": "linux"},
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
        ),
    )  # fmt: skip
    assert_that(store.read(ID, BOB), Equals(b"data"))
    assert_that(store.update(ID, name="new").name, Equals("new"))


def test_version_1_never_changes() -> None:
    text = "\n".join(" ".join(statement.split()) for statement in schema._VERSION_1)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert_that(digest, Equals("8b895053993cfc245b113b53766be0c2c6fc176d0f8cf856c9825cb44bd87a3f"))


def test_a_newer_store_is_a_config_error(store: Store, image: Image) -> None:
    store.sql("PRAGMA user_version = 99")
    for call in (lambda s: s.get(ID), lambda s: s.list(), lambda s: s.create()):
        with pytest.raises(ConfigError, match="version 99") as caught:
            call(Store(store.directory))
        assert_that(str(caught.value), Contains(str(store.directory)))
        assert_that(caught.value.hint, Contains("update imagebroker"))


def test_a_database_of_somebody_else_is_a_config_error(store: Store) -> None:
    store.directory.mkdir()
    store.sql("CREATE TABLE theirs (x)")
    for call in (lambda: store.get(ID), store.create):
        with pytest.raises(ConfigError, match="not that of an image store"):
            call()
    assert_that(store.sql("SELECT name FROM sqlite_master"), Equals([("theirs",)]))


def test_a_migration_is_done_once_and_whole(store: Store, image: Image) -> None:
    store.backend.close()
    path = store.directory / MARKER

    def add(db: sqlite3.Connection) -> None:
        db.execute("ALTER TABLE images ADD COLUMN colour TEXT DEFAULT 'red'")

    def fail(db: sqlite3.Connection) -> None:
        raise ValueError("half done")

    def migrate(*steps: schema.Migration) -> None:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as db:
            schema.migrate(db, migrations=(*schema.MIGRATIONS, *steps))

    with pytest.raises(ValueError, match="half done"):
        migrate(add, fail)
    newest = len(schema.MIGRATIONS)
    assert_that(store.sql("PRAGMA user_version"), Equals([(newest,)]))
    threads = [threading.Thread(target=migrate, args=(add,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_that(store.sql("PRAGMA user_version"), Equals([(newest + 1,)]))
    assert_that(store.sql("SELECT name, colour FROM images"), Equals([("n", "red")]))


# Through the broker


@pytest.fixture
def broker(make_broker: Callable[[str], imagebroker.Broker], tmp_path: Path) -> Any:
    return make_broker(
        f"""
        [imagebroker]
        enabled_schemes = file
        [backend:file]
        store_dir = {tmp_path}/store
        [backend:file:other]
        store_dir = {tmp_path}/other
        """
    )


def test_an_image_goes_through_its_life(broker: Any, tmp_path: Path) -> None:
    info = {"name": "debian", "tags": ["a"], "properties": {"os": "linux"}}
    image = broker.create(ALICE, info, iter([DATA]))
    assert_that(broker.get(ALICE, image.id), Equals(image))
    found = list(broker.get_all(ALICE, filters={"property-os": "linux"}))
    assert_that(found, Equals([image]))
    download = broker.download(ALICE, image.ref, tmp_path / "dest")
    assert_that((tmp_path / "dest").read_bytes(), Equals(DATA))
    assert_that(download.evidence["sha256"], Equals(SHA256))
    with broker.open(ALICE, image.id) as reader:
        assert_that((reader.size, reader.read()), Equals((len(DATA), DATA)))
    broker.update(ALICE, image.id, {"name": "renamed"}, if_version=image.version)
    with pytest.raises(Conflict):
        broker.update(ALICE, image.id, {"name": "x"}, if_version="sha256:other")
    copy = broker.copy(ALICE, image.id, backend="file:other")
    assert_that(copy, MatchesStructure.byEquality(name="renamed", checksums=image.checksums))
    assert_that(copy.ref, Equals(f"file:other:{copy.id}"))
    broker.delete(ALICE, image.id)
    assert_that(broker.get(ALICE, image.id).deleted, Is(True))
    with pytest.raises(ImageNotFound):
        broker.delete(ALICE, image.id)


def test_damaged_bits_of_the_same_size_are_found_by_a_download(broker: Any, tmp_path: Path) -> None:
    image = broker.create(None, {}, DATA)
    bits = tmp_path / "store" / "images" / image.id
    bits.write_bytes(DATA[:-1] + b"x")
    with pytest.raises(VerificationError):
        broker.download(None, image.id, tmp_path / "dest")
    assert_that((tmp_path / "dest").exists(), Is(False))


def test_failing_data_reaches_the_caller_as_such(broker: Any) -> None:
    with pytest.raises(UploadFailed, match="the disk of the caller") as caught:
        broker.create(None, {"id": ID}, failing(150_000))
    assert_that(caught.value.image_id, Is(None))
    with pytest.raises(ImageNotFound):
        broker.get(None, ID)
