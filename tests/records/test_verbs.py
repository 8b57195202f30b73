"""The six verbs, with one meaning: the same tests against the embedded store and a real Glance.

The table of docs/records.md has a row for each test here.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from oslo_context.context import RequestContext
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, MatchesStructure, Not

import imagebroker
from imagebroker.exceptions import (
    Conflict,
    ImageNotFound,
    InvalidImageRef,
    NotAuthorized,
    NotReady,
    PolicyViolation,
    UploadFailed,
)
from tests.bounds import HANGS

DATA = bytes(range(256)) * 1000
NAMES = itertools.count()


@dataclass
class World:
    """A broker whose default backend holds records, and three people who use it."""

    broker: imagebroker.Broker
    admin: RequestContext
    red: RequestContext
    blue: RequestContext
    red_project: str
    blue_project: str

    def make(self, context: RequestContext | None = None, data: Any = DATA, **info: Any) -> Any:
        info = {
            "name": f"image-{next(NAMES)}",
            "disk_format": "raw",
            "container_format": "bare",
        } | info
        return self.broker.create(context or self.red, info, data)

    def named(self, context: RequestContext, name: str, **filters: Any) -> list[str]:
        found = self.broker.get_all(context, filters={"name": name, **filters})
        return [image.id or "" for image in found]

    def read(self, context: RequestContext, ref: str) -> bytes:
        with self.broker.open(context, ref) as reader:
            return reader.read() or b""


@pytest.fixture(params=["store", "glance"])
def world(
    request: pytest.FixtureRequest, tmp_path: Path,
    make_broker: Callable[..., imagebroker.Broker],
) -> Iterator[World]:  # fmt: skip
    if request.param == "store":
        broker = make_broker(
            "[imagebroker]\nenabled_schemes = file\nretry_backoff = 0.01\n"
            f"[backend:file]\nstore_dir = {tmp_path}/store\nallowed_paths = {tmp_path}\n"
        )
        contexts = [
            RequestContext(project_id=name, is_admin=name == "admin", auth_token="unused")
            for name in ("admin", "red", "blue")
        ]
        yield World(broker, *contexts, "red", "blue")
        return
    openstack = request.getfixturevalue("openstack")
    options = "".join(
        f"{key} = {value}\n" for key, value in openstack.auth_options("admin").items()
    )
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = glance, file\ndefault_backend = glance\n"
        "retry_backoff = 0.01\n"
        f"[backend:glance]\nendpoint = {openstack.endpoint.rstrip('/')}/\n{options}"
        f"[backend:file]\nstore_dir = {tmp_path}/store\nallowed_paths = {tmp_path}\n"
    )
    contexts = [
        RequestContext(
            auth_token=openstack.token(name), project_id=openstack.project_ids[name],
            is_admin=name == "admin",
        )
        for name in ("admin", "red", "blue")
    ]  # fmt: skip
    yield World(broker, *contexts, openstack.project_ids["red"], openstack.project_ids["blue"])


class TestCreate:
    @pytest.mark.promise("R1")
    @pytest.mark.parametrize("kind", ["bytes", "path", "file object", "iterator", "pipe-like"])
    def test_data_of_every_kind_makes_an_active_image_with_its_size_and_digest(
        self, world: World, tmp_path: Path, kind: str
    ) -> None:
        (tmp_path / "data").write_bytes(DATA)
        data: Any = {
            "bytes": lambda: DATA,
            "path": lambda: tmp_path / "data",
            "file object": lambda: io.BytesIO(DATA),
            "iterator": lambda: iter([DATA[:1000], DATA[1000:]]),
            "pipe-like": lambda: PipeLike(DATA),
        }[kind]()
        image = world.make(data=data)
        assert_that(image, MatchesStructure.byEquality(status="active", size=len(DATA)))
        algorithm, digest = image.strong_checksum
        assert_that(digest, Equals(hashlib.new(algorithm, DATA).hexdigest()))
        assert_that(world.read(world.red, image.ref), Equals(DATA))
        assert_that(world.read(world.red, image.id), Equals(DATA))

    @pytest.mark.promise("R2")
    def test_without_data_the_image_is_queued_and_not_ready(self, world: World) -> None:
        image = world.make(data=None)
        assert_that(image, MatchesStructure.byEquality(status="queued", size=None))
        with pytest.raises(NotReady):
            world.read(world.red, image.ref)

    @pytest.mark.promise("R3")
    def test_the_record_keeps_what_it_was_given(self, world: World) -> None:
        image = world.make(
            tags=["one", "two"],
            properties={"os_type": "linux", "hw_x": "y"},
            min_disk=3,
            min_ram=64,
        )
        found = world.broker.get(world.red, image.ref)
        assert_that(found, MatchesStructure.byEquality(
            min_disk=3, min_ram=64, disk_format="raw", container_format="bare", visibility="shared",
            owner=world.red_project, protected=False, name=image.name, id=image.id,
        ))  # fmt: skip
        assert_that(sorted(found.tags or ()), Equals(["one", "two"]))
        assert_that(found.properties["os_type"], Equals("linux"))
        assert_that(found.properties["hw_x"], Equals("y"))
        assert found.created_at is not None
        assert found.created_at.tzinfo is not None

    @pytest.mark.promise("R4")
    def test_the_caller_may_choose_the_id_once(self, world: World) -> None:
        image_id = str(uuid.uuid4())
        assert_that(world.make(id=image_id).id, Equals(image_id))
        with pytest.raises(Conflict):
            world.make(id=image_id)
        world.broker.delete(world.red, image_id)
        with pytest.raises(Conflict):  # an id is never used again
            world.make(id=image_id)

    @pytest.mark.promise("R5")
    def test_an_unknown_key_is_refused_by_name_and_the_mapping_is_left_alone(
        self, world: World
    ) -> None:
        info = {"name": "x", "os_type": "linux"}
        with pytest.raises(InvalidImageRef, match="os_type"):
            world.broker.create(world.red, info, DATA)
        assert_that(info, Equals({"name": "x", "os_type": "linux"}))

    @pytest.mark.promise("R6")
    @pytest.mark.parametrize("at", [0, len(DATA) // 2, len(DATA)])
    def test_a_source_that_fails_leaves_no_record(self, world: World, at: int) -> None:
        def source() -> Iterator[bytes]:
            yield DATA[:at]
            raise LookupError("the source's own error")

        name = f"fails-{next(NAMES)}"
        with pytest.raises(UploadFailed) as caught:
            world.make(data=source(), name=name)
        assert_that(caught.value.__cause__, Not(Is(None)))
        assert_that(str(caught.value), Contains("the source's own error"))
        for status in ("queued", "saving", "active"):
            assert_that(world.named(world.red, name, status=status), Equals([]))

    @pytest.mark.promise("R7")
    @pytest.mark.parametrize("size", [len(DATA) - 1, len(DATA) + 1])
    def test_data_of_another_size_than_declared_leaves_no_record(
        self, world: World, size: int
    ) -> None:
        name = f"fails-{next(NAMES)}"
        with pytest.raises(UploadFailed):
            world.make(data=iter([DATA]), size=size, name=name)
        for status in ("queued", "saving", "active"):
            assert_that(world.named(world.red, name, status=status), Equals([]))

    @pytest.mark.promise("R8")
    def test_where_it_is_asked_for_a_record_stays_that_can_be_given_data(
        self, world: World
    ) -> None:
        def source() -> Iterator[bytes]:
            yield DATA[:1000]
            raise LookupError("the source's own error")

        info = {"name": "kept", "disk_format": "raw", "tags": ["mine"]}
        with pytest.raises(UploadFailed, match="the source's own error") as caught:
            world.broker.create(world.red, info, source(), keep_record=True)
        image_id = caught.value.image_id or ""
        found = world.broker.get(world.red, image_id)
        assert_that(found, MatchesStructure.byEquality(status="queued", size=None, tags=("mine",)))
        changed = world.broker.update(world.red, image_id, {}, DATA)
        assert_that(changed, MatchesStructure.byEquality(status="active", tags=("mine",)))
        assert_that(world.read(world.red, image_id), Equals(DATA))

    @pytest.mark.promise("R9")
    def test_only_an_admin_makes_an_image_public(self, world: World) -> None:
        with pytest.raises(NotAuthorized):
            world.make(visibility="public")
        assert_that(world.make(world.admin, visibility="public").visibility, Equals("public"))


class PipeLike:
    """Readable, and no more."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


class TestGet:
    @pytest.mark.promise("R10")
    def test_an_unknown_id_is_not_found(self, world: World) -> None:
        with pytest.raises(ImageNotFound):
            world.broker.get(world.red, str(uuid.uuid4()))

    @pytest.mark.promise("R11")
    def test_the_ref_of_a_record_is_accepted_anywhere(self, world: World) -> None:
        image = world.make()
        assert_that(world.broker.get(world.red, image.ref).id, Equals(image.id))

    @pytest.mark.promise("R12")
    def test_a_private_image_is_its_projects_and_the_admins(self, world: World) -> None:
        image = world.make(visibility="private")
        with pytest.raises(ImageNotFound):
            world.broker.get(world.blue, image.ref)
        with pytest.raises(ImageNotFound):
            world.read(world.blue, image.ref)
        assert_that(world.broker.get(world.admin, image.ref).id, Equals(image.id))

    @pytest.mark.promise("R13")
    def test_a_shared_image_is_also_its_members(self, world: World) -> None:
        image = world.make(members=[world.blue_project])
        assert_that(world.broker.get(world.blue, image.ref).id, Equals(image.id))
        assert_that(world.read(world.blue, image.ref), Equals(DATA))
        other = world.make()
        with pytest.raises(ImageNotFound):
            world.broker.get(world.blue, other.ref)

    @pytest.mark.promise("R14")
    def test_a_public_image_is_everybodys(self, world: World) -> None:
        image = world.make(world.admin, visibility="public")
        assert_that(world.read(world.blue, image.ref), Equals(DATA))

    @pytest.mark.promise("R15")
    def test_a_deleted_image_is_not_found(self, world: World) -> None:
        image = world.make()
        world.broker.delete(world.red, image.ref)
        with pytest.raises(ImageNotFound):
            world.broker.get(world.red, image.ref, show_deleted=False)


class TestGetAll:
    @pytest.mark.promise("R16")
    def test_only_active_images_are_listed_unless_a_status_is_named(self, world: World) -> None:
        name = f"listed-{next(NAMES)}"
        active, queued = world.make(name=name), world.make(name=name, data=None)
        assert_that(world.named(world.red, name), Equals([active.id]))
        assert_that(world.named(world.red, name, status="queued"), Equals([queued.id]))

    @pytest.mark.promise("R17")
    def test_hidden_images_are_listed_only_when_asked_for(self, world: World) -> None:
        name = f"listed-{next(NAMES)}"
        seen, hidden = world.make(name=name), world.make(name=name, hidden=True)
        assert_that(world.named(world.red, name), Equals([seen.id]))
        assert_that(world.named(world.red, name, hidden=True), Equals([hidden.id]))

    @pytest.mark.promise("R18")
    def test_each_sees_public_images_and_their_own(self, world: World) -> None:
        name = f"listed-{next(NAMES)}"
        public = world.make(world.admin, name=name, visibility="public")
        red = world.make(world.red, name=name, visibility="private")
        blue = world.make(world.blue, name=name, visibility="private")
        assert_that(set(world.named(world.red, name)), Equals({public.id, red.id}))
        assert_that(set(world.named(world.blue, name)), Equals({public.id, blue.id}))

    @pytest.mark.promise("R19")
    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({"property-colour": "green"}, "small"), ({"tag": "large-one"}, "large"),
            ({"size_min": 1000}, "large"), ({"size_max": 999}, "small"),
            ({"disk_format": "aki"}, "large"), ({"property-colour": "a&b#c\n d"}, "large"),
        ],
    )  # fmt: skip
    def test_filters_narrow_the_list(
        self, world: World, filters: dict[str, Any], expected: str
    ) -> None:
        name = f"listed-{next(NAMES)}"
        made = {
            "small": world.make(name=name, data=b"x" * 10, properties={"colour": "green"}),
            "large": world.make(name=name, data=b"x" * 5000, disk_format="aki",
                                properties={"colour": "a&b#c\n d"}, tags=["large-one"],
                                container_format="aki"),
        }  # fmt: skip
        assert_that(world.named(world.red, name, **filters), Equals([made[expected].id]))

    @pytest.mark.promise("R20")
    def test_an_unknown_filter_or_argument_is_refused_at_the_call(self, world: World) -> None:
        for wrong in ({"filters": {"colour": "x"}}, {"limit": -1}, {"sort_key": "x"},
                      {"sort_dir": "up"}, {"page_size": 0}, {"marker": 7}):  # fmt: skip
            with pytest.raises(InvalidImageRef):
                world.broker.get_all(world.red, **wrong)

    @pytest.mark.promise("R21")
    def test_pages_markers_limits_and_order(self, world: World) -> None:
        prefix = f"listed-{next(NAMES)}"
        made = [world.make(data=b"x", name=f"{prefix}-{n}", tags=[prefix]) for n in range(7)]
        names = [image.name for image in made]
        query = {"filters": {"tag": prefix}, "sort_key": "name", "sort_dir": "asc"}

        def listed(**more: Any) -> list[str]:
            return [i.name for i in world.broker.get_all(world.red, **{**query, **more})]

        assert_that(listed(), Equals(names))
        assert_that(listed(sort_dir="desc"), Equals(names[::-1]))
        assert_that(listed(page_size=2), Equals(names))
        assert_that(listed(page_size=2, limit=5), Equals(names[:5]))
        assert_that(listed(limit=0), Equals([]))
        assert_that(listed(marker=made[2].id), Equals(names[3:]))
        assert_that(listed(marker=made[2].id, limit=2, page_size=1), Equals(names[3:5]))

    @pytest.mark.promise("R22")
    def test_the_callers_filters_are_left_alone(self, world: World) -> None:
        filters = {"name": "x", "property-os_type": "linux"}
        list(world.broker.get_all(world.red, filters=filters))
        assert_that(filters, Equals({"name": "x", "property-os_type": "linux"}))


class TestUpdate:
    @pytest.mark.promise("R23")
    def test_fields_change_and_none_removes(self, world: World) -> None:
        image = world.make(properties={"keep": "1", "change": "1", "drop": "1"}, tags=["old"])
        changed = world.broker.update(
            world.red, image.ref,
            {"name": "renamed", "tags": ["new"], "properties": {"change": "2", "drop": None}},
        )  # fmt: skip
        assert_that(changed.name, Equals("renamed"))
        assert_that(list(changed.tags or ()), Equals(["new"]))
        own = {k: v for k, v in changed.properties.items() if k in ("keep", "change", "drop")}
        assert_that(own, Equals({"keep": "1", "change": "2"}))

    @pytest.mark.promise("R24")
    def test_purge_props_removes_what_is_not_given(self, world: World) -> None:
        image = world.make(properties={"one": "1", "two": "2"})
        changed = world.broker.update(
            world.red, image.ref, {"properties": {"two": "3"}}, purge_props=True
        )
        own = {k: v for k, v in changed.properties.items() if k in ("one", "two")}
        assert_that(own, Equals({"two": "3"}))

    @pytest.mark.promise("R25")
    def test_data_is_taken_once(self, world: World) -> None:
        image = world.make(data=None)
        changed = world.broker.update(world.red, image.ref, {}, DATA)
        assert_that(changed, MatchesStructure.byEquality(status="active", size=len(DATA)))
        assert_that(world.read(world.red, image.ref), Equals(DATA))
        with pytest.raises(Conflict):
            world.broker.update(world.red, image.ref, {}, b"other")
        assert_that(world.read(world.red, image.ref), Equals(DATA))

    @pytest.mark.promise("R26")
    @pytest.mark.parametrize(
        "key", ["status", "checksum", "created_at", "ref", "version", "nonsense"]
    )
    def test_what_cannot_be_set_is_refused_by_name(self, world: World, key: str) -> None:
        image = world.make()
        with pytest.raises(InvalidImageRef, match=key):
            world.broker.update(world.red, image.ref, {key: "x"})

    @pytest.mark.promise("R27")
    def test_a_stale_version_is_a_conflict(self, world: World) -> None:
        image = world.make()
        with pytest.raises(Conflict):
            world.broker.update(world.red, image.ref, {"name": "x"}, if_version="sha256:stale")
        changed = world.broker.update(
            world.red,
            image.ref,
            {"name": "x"},
            if_version=world.broker.get(world.red, image.ref).version,
        )
        assert_that(changed.name, Equals("x"))

    @pytest.mark.promise("R28")
    def test_another_projects_image_is_not_changed(self, world: World) -> None:
        private = world.make(visibility="private")
        public = world.make(world.admin, visibility="public")
        with pytest.raises(ImageNotFound):
            world.broker.update(world.blue, private.ref, {"name": "x"})
        with pytest.raises(NotAuthorized):
            world.broker.update(world.blue, public.ref, {"name": "x"})
        assert_that(world.broker.get(world.admin, public.ref).name, Equals(public.name))

    @pytest.mark.promise("R29")
    def test_members_are_replaced(self, world: World) -> None:
        image = world.make(members=[world.blue_project])
        world.broker.update(world.red, image.ref, {"members": []})
        with pytest.raises(ImageNotFound):
            world.broker.get(world.blue, image.ref)


class TestDelete:
    @pytest.mark.promise("R30")
    def test_the_image_is_gone_and_cannot_be_deleted_twice(self, world: World) -> None:
        image = world.make()
        world.broker.delete(world.red, image.ref)
        assert_that(world.named(world.red, image.name), Equals([]))
        with pytest.raises(ImageNotFound):
            world.read(world.red, image.ref)
        with pytest.raises(ImageNotFound):
            world.broker.delete(world.red, image.ref)

    @pytest.mark.promise("R31")
    def test_a_protected_image_stays(self, world: World) -> None:
        image = world.make(protected=True)
        with pytest.raises(PolicyViolation):
            world.broker.delete(world.red, image.ref)
        world.broker.update(world.red, image.ref, {"protected": False})
        world.broker.delete(world.red, image.ref)

    @pytest.mark.promise("R32")
    def test_another_projects_image_stays(self, world: World) -> None:
        private = world.make(visibility="private")
        public = world.make(world.admin, visibility="public")
        with pytest.raises(ImageNotFound):
            world.broker.delete(world.blue, private.ref)
        with pytest.raises(NotAuthorized):
            world.broker.delete(world.blue, public.ref)
        assert_that(world.read(world.admin, private.ref), Equals(DATA))

    @pytest.mark.promise("R33")
    def test_a_running_download_finishes(self, world: World) -> None:
        data = DATA * 40
        image = world.make(data=data)
        with world.broker.open(world.red, image.ref) as reader:
            first = reader.read(1000)
            world.broker.delete(world.red, image.ref)
            rest = reader.read()
        assert_that((first or b"") + (rest or b""), Equals(data))


class TestCopy:
    @pytest.mark.promise("R34")
    def test_bytes_and_description_arrive_verified(self, world: World, tmp_path: Path) -> None:
        (tmp_path / "disk.raw").write_bytes(DATA)
        backend = world.broker.resolve(str(uuid.uuid4())).backend
        copied = world.broker.copy(
            world.red, f"file://{tmp_path}/disk.raw",
            {"name": "copied", "disk_format": "raw", "container_format": "bare"}, backend=backend,
        )  # fmt: skip
        assert_that(
            copied, MatchesStructure.byEquality(name="copied", size=len(DATA), status="active")
        )
        assert_that(world.read(world.red, copied.ref), Equals(DATA))

    @pytest.mark.promise("R35")
    def test_a_source_that_breaks_leaves_no_record(self, world: World, tmp_path: Path) -> None:
        name = f"copied-{next(NAMES)}"
        (tmp_path / "disk.raw").write_bytes(DATA)
        backend = world.broker.resolve(str(uuid.uuid4())).backend
        with pytest.raises(imagebroker.ImageBrokerError):
            world.broker.copy(
                world.red, f"file://{tmp_path}/disk.raw",
                {"name": name, "disk_format": "raw", "container_format": "bare"}, backend=backend,
                checksum="sha256:" + "0" * 64,
            )  # fmt: skip
        for status in ("queued", "saving", "active"):
            assert_that(world.named(world.red, name, status=status), Equals([]))


#: Sends half of an image, says so, and waits to be killed.
UPLOAD = """
import sys, imagebroker

def data():
    yield bytes(1000)
    print("uploading", flush=True)
    sys.stdin.read()

with imagebroker.Broker.from_config(sys.argv[1]) as broker:
    broker.create(None, {"id": sys.argv[2], "disk_format": "raw", "name": "dies"}, data())
"""


@contextmanager
def uploading(tmp_path: Path, image_id: str) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of an upload."""
    command = [sys.executable, "-c", UPLOAD, str(tmp_path / "imagebroker-0.conf"), image_id]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert_that(process.stdout.readline(), Equals("uploading\n"))
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


class TestPurge:
    @pytest.mark.promise("R36")
    def test_what_an_upload_that_died_left_is_removed(self, world: World, tmp_path: Path) -> None:
        image_id = str(uuid.uuid4())
        with uploading(tmp_path, image_id):
            pass
        ends = time.monotonic() + 30
        while world.broker.get(world.admin, image_id).status not in ("queued", "saving"):
            assert time.monotonic() < ends

        def purged(**how: Any) -> list[str | None]:
            return [image.id for image in world.broker.purge(world.admin, older_than=0, **how)]

        assert_that(purged(dry_run=True), Contains(image_id))
        assert_that(world.broker.get(world.admin, image_id).id, Equals(image_id))
        assert_that(purged(), Contains(image_id))
        with pytest.raises(ImageNotFound):
            world.broker.get(world.admin, image_id)
        assert_that(purged(), Not(Contains(image_id)))

    @pytest.mark.promise("R37")
    def test_images_and_running_uploads_stay(self, world: World, tmp_path: Path) -> None:
        active, queued = world.make(), world.make(data=None)
        image_id = str(uuid.uuid4())
        with uploading(tmp_path, image_id) as process:
            world.broker.purge(world.admin, older_than=3600)
            assert process.stdin is not None
            process.stdin.close()
            assert_that(process.wait(HANGS), Equals(0))
        assert_that(world.read(world.red, active.ref), Equals(DATA))
        assert_that(world.broker.get(world.red, queued.ref).status, Equals("queued"))
        assert_that(world.broker.get(world.admin, image_id), MatchesStructure.byEquality(
            status="active", size=1000, tags=()))  # fmt: skip


@pytest.mark.promise("R38")
def test_the_store_and_glance_list_the_same_fields(world: World) -> None:
    image = next(iter(world.broker.get_all(world.red, filters={"name": world.make().name})))
    unknown = [name for name in COMMON_FIELDS if getattr(image, name) is None]
    assert_that(unknown, Equals([]))


COMMON_FIELDS = (
    "ref", "id", "name", "status", "visibility", "owner", "hidden", "protected", "tags", "size",
    "disk_format", "container_format", "min_disk", "min_ram", "created_at", "updated_at",
)  # fmt: skip
