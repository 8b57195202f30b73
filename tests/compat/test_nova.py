"""`imagebroker.compat.nova.API` on the embedded store: Nova's behaviours, without Nova."""

from __future__ import annotations

import copy
import errno
import gc
import hashlib
import io
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from oslo_context.context import RequestContext
from testtools.assertions import assert_that
from testtools.matchers import (
    AllMatch,
    ContainsAll,
    ContainsDict,
    Equals,
    HasLength,
    Is,
    IsInstance,
    LessThan,
    MatchesStructure,
    Not,
)

import imagebroker
from imagebroker import exceptions as ours
from imagebroker.compat.errors import OF_DELETE, OF_IMAGE, OF_SERVICE, OF_UPDATE, Errors
from imagebroker.compat.listing import LazyList
from imagebroker.compat.nova import API
from tests.compat import exceptions
from tests.conftest import Scripted

DATA = bytes(range(256)) * 1000
MISSING = "00000000-0000-4000-8000-000000000000"
ALICE = RequestContext(user_id="alice", project_id="red", is_admin=False)
BOB = RequestContext(user_id="bob", project_id="blue", is_admin=False)
ADMIN = RequestContext(user_id="root", project_id="admin", is_admin=True)


@pytest.fixture
def broker(make_broker: Callable[[str], imagebroker.Broker], tmp_path: Path) -> imagebroker.Broker:
    return make_broker(
        f"""
        [imagebroker]
        enabled_schemes = file
        [backend:file]
        store_dir = {tmp_path}/store
        """
    )


@pytest.fixture
def api(broker: imagebroker.Broker) -> API:
    return API(broker, exceptions)


@pytest.fixture
def image_id(api: API) -> str:
    """A raw image with the bytes DATA."""
    info = {"name": "disk", "disk_format": "raw", "container_format": "bare"}
    return str(api.create(ALICE, info, DATA)["id"])


class TestRecord:
    def test_it_has_the_keys_and_types_of_nova(self, api: API, image_id: str) -> None:
        record = api.get(ALICE, image_id)
        assert_that(record, ContainsDict({
            "id": Equals(image_id),
            "name": Equals("disk"),
            "status": Equals("active"),
            "owner": Equals("red"),
            "size": Equals(len(DATA)),
            "min_disk": Equals(0),
            "min_ram": Equals(0),
            "disk_format": Equals("raw"),
            "container_format": Equals("bare"),
            "checksum": Is(None),
            "os_hash_algo": Equals("sha256"),
            "os_hash_value": Equals(hashlib.sha256(DATA).hexdigest()),
            "is_public": Is(False),
            "deleted": Is(False),
            "deleted_at": Is(None),
            "properties": Equals({}),
        }))  # fmt: skip
        for key in ("created_at", "updated_at"):
            assert_that(record[key], MatchesStructure(tzinfo=Not(Is(None))))
        assert "locations" not in record
        assert "direct_url" not in record

    def test_it_keeps_what_nova_drops(self, api: API, image_id: str) -> None:
        api.update(ALICE, image_id, {"tags": ["a"], "protected": True})
        assert_that(api.get(ALICE, image_id), ContainsDict({
            "visibility": Equals("shared"), "tags": Equals(["a"]), "protected": Is(True),
            "os_hidden": Is(False), "virtual_size": Is(None),
        }))  # fmt: skip

    def test_an_unknown_size_is_none_and_not_zero(self, api: API) -> None:
        record = api.create(ALICE, {"name": "queued"})
        assert_that(record, ContainsDict({"size": Is(None), "status": Equals("queued")}))

    def test_locations_are_added_when_asked_for(self, api: API, image_id: str) -> None:
        record = api.get(ALICE, image_id, include_locations=True)
        assert_that(record, ContainsDict({"locations": Equals([]), "direct_url": Is(None)}))

    def test_nested_properties_are_json_on_their_way_and_python_at_both_ends(
        self, api: API, broker: imagebroker.Broker
    ) -> None:
        mapping = [{"device_name": "/dev/vda", "boot_index": 0}]
        properties = {"block_device_mapping": mapping, "mappings": [], "bdm_v2": True, "x": "{}"}
        record = api.create(ALICE, {"name": "v", "properties": properties})
        assert_that(record["properties"], Equals({**properties, "bdm_v2": "True"}))
        stored = broker.get(ALICE, record["id"]).properties
        assert_that(stored["block_device_mapping"], IsInstance(str))
        assert_that(stored["bdm_v2"], Equals("True"))

    def test_a_property_that_is_no_json_does_not_make_the_image_unreadable(self, api: API) -> None:
        record = api.create(ALICE, {"name": "v", "properties": {"mappings": "[{"}})
        assert_that(api.get(ALICE, record["id"])["properties"], Equals({"mappings": "[{"}))

    def test_an_image_without_a_record_can_be_booted_from(
        self, make_broker: Callable[[str], imagebroker.Broker], tmp_path: Path
    ) -> None:
        (tmp_path / "disk").write_bytes(DATA)
        broker = make_broker(
            "[imagebroker]\nenabled_schemes = file\n[backend:file]\n"
            f"store_dir = {tmp_path}/store\nallowed_paths = {tmp_path}\n"
        )
        record = API(broker, exceptions).get(ALICE, f"file://{tmp_path}/disk")
        assert_that(record, ContainsDict({
            "id": Equals(f"file://{tmp_path}/disk"), "status": Equals("active"),
            "size": Equals(len(DATA)), "min_ram": Equals(0), "tags": Equals([]),
        }))  # fmt: skip
        assert "visibility" not in record

    def test_a_deleted_image_is_shown_unless_it_is_not_wanted(
        self, api: API, image_id: str
    ) -> None:
        assert_that(api.delete(ALICE, image_id), Is(True))
        record = api.get(ALICE, image_id)
        assert_that(record, ContainsDict({"deleted": Is(True), "status": Equals("deleted")}))
        assert_that(record["deleted_at"], IsInstance(datetime))
        with pytest.raises(exceptions.ImageNotFound):
            api.get(ALICE, image_id, show_deleted=False)


class TestGetAll:
    def names(self, api: API, context: Any = ALICE, **kwargs: Any) -> list[str]:
        return [image["name"] for image in api.get_all(context, **kwargs)]

    @pytest.fixture
    def images(self, api: API) -> list[str]:
        """Ids of the ACTIVE images a, b and c; a queued one is there, too."""
        ids = []
        for number, name in enumerate("abc"):
            info = {"name": name, "disk_format": "raw", "min_ram": number,
                    "properties": {"os_type": "linux", "property": name}}  # fmt: skip
            ids.append(api.create(ALICE, info, DATA)["id"])
        api.create(ALICE, {"name": "queued", "disk_format": "raw"})
        return ids

    def test_only_active_images_unless_a_status_is_asked_for(
        self, api: API, images: list[str]
    ) -> None:
        assert_that(self.names(api), Equals(["c", "b", "a"]))
        assert_that(self.names(api, filters={"status": "queued"}), Equals(["queued"]))

    def test_pages_and_order(self, api: API, images: list[str]) -> None:
        assert_that(self.names(api, sort_key="name", sort_dir="asc"), Equals(["a", "b", "c"]))
        assert_that(self.names(api, marker=images[2], limit=1), Equals(["b"]))
        assert_that(self.names(api, page_size=1), Equals(["c", "b", "a"]))

    def test_what_is_false_is_not_given(self, api: API, images: list[str]) -> None:
        """As in Nova, whose REST API promises that a limit of 0 is none."""
        found = self.names(api, filters=None, marker="", limit=0, page_size=0, sort_key=None)
        assert_that(found, HasLength(3))

    def test_property_filters_lose_exactly_their_prefix(self, api: API, images: list[str]) -> None:
        """Nova makes `s_type` of `property-os_type`."""
        assert_that(self.names(api, filters={"property-os_type": "linux"}), HasLength(3))
        assert_that(self.names(api, filters={"property-property": "b"}), Equals(["b"]))
        assert_that(self.names(api, filters={"property-os_type": "bsd"}), Equals([]))

    def test_an_unknown_filter_is_the_name_of_a_property(self, api: API, images: list[str]) -> None:
        assert_that(self.names(api, filters={"os_type": "linux", "property": "c"}), Equals(["c"]))

    def test_other_filters(self, api: API, images: list[str]) -> None:
        assert_that(self.names(api, filters={"min_ram": "1", "name": None}), Equals(["b"]))
        for since, count in (("2020-01-01T00:00:00Z", 3), ("2100-01-01T00:00:00Z", 0)):
            assert_that(self.names(api, filters={"changes-since": since}), HasLength(count))
        assert_that(self.names(api, filters={"os_hidden": "true"}), Equals([]))

    def test_is_public_is_a_filter_unless_it_is_none(self, api: API, images: list[str]) -> None:
        api.update(ADMIN, images[0], {"is_public": True})
        api.update(ALICE, images[1], {"is_public": False})
        for value, expected in (
            ("none", ["c", "b", "a"]), ("true", ["a"]), (True, ["a"]), ("False", ["b"]), (0, ["b"]),
        ):  # fmt: skip
            assert_that(self.names(api, filters={"is_public": value}), Equals(expected))
        assert_that(self.names(api, BOB), Equals(["a"]))

    def test_the_filters_of_the_caller_stay_as_they_are(self, api: API, images: list[str]) -> None:
        filters = {"property-os_type": "linux", "name": "a"}
        api.get_all(ALICE, filters=filters)
        assert_that(filters, Equals({"property-os_type": "linux", "name": "a"}))

    def test_an_argument_that_does_not_exist_is_not_ignored(self, api: API) -> None:
        """`filter=` would list everything, and Nova deletes what it finds when it rotates."""
        with pytest.raises(TypeError, match="'filter'"):
            api.get_all(ALICE, filter={"name": "a"})
        api.get_all(ALICE, offset=3)  # Nova's REST API passes it

    @pytest.mark.parametrize(
        "arguments",
        [{"marker": MISSING}, {"sort_dir": "up"}, {"sort_key": "colour"}, {"limit": -1}],
    )
    def test_what_cannot_be_asked_is_refused_by_the_call_itself(
        self, api: API, images: list[str], arguments: dict[str, Any]
    ) -> None:
        with pytest.raises((exceptions.Invalid, exceptions.NotFound)):
            api.get_all(ALICE, **arguments)

    def test_the_answer_is_a_list_for_those_who_need_one(self, api: API, images: list[str]) -> None:
        """Nova rotates backups by `len` and `pop`."""
        found = api.get_all(ALICE)
        assert_that(len(found), Equals(3))
        assert_that(found.pop()["name"], Equals("a"))
        assert_that([each["name"] for each in found], Equals(["c", "b"]))


class TestLazyList:
    def errors(self) -> Any:
        return lambda: Errors(exceptions).translated(OF_SERVICE)

    def test_only_what_is_looked_at_is_read(self) -> None:
        read = []

        def items() -> Iterator[int]:
            for number in range(100):
                read.append(number)
                yield number

        numbers = LazyList(items(), self.errors())
        assert_that(next(iter(numbers)), Equals(0))
        assert_that(bool(numbers), Is(True))
        assert_that(numbers[2], Equals(2))
        assert_that(read, Equals([0, 1, 2]))
        assert_that(numbers[-1], Equals(99))
        assert_that(numbers[:2], Equals([0, 1]))

    def test_it_compares_and_adds_as_lists_do(self) -> None:
        numbers = LazyList([1, 2], self.errors())
        assert_that(numbers, Equals([1, 2]))
        assert_that(numbers == LazyList(iter([1, 2]), self.errors()), Is(True))
        assert_that(numbers + [3], Equals([1, 2, 3]))  # noqa: RUF005 - what callers write
        assert_that([0] + numbers, Equals([0, 1, 2]))  # noqa: RUF005
        assert_that(repr(numbers), Equals("[1, 2]"))
        numbers.append(3)
        del numbers[0]
        numbers[0] = 5
        assert_that(numbers, Equals([5, 3]))

    def test_a_list_that_breaks_off_never_passes_for_a_short_one(self) -> None:
        def items() -> Iterator[int]:
            yield 1
            raise ours.TransferError("the second page did not come")

        numbers = LazyList(items(), self.errors())
        for _ in range(2):
            with pytest.raises(exceptions.GlanceConnectionFailed):
                len(numbers)


class TestCreate:
    def test_the_dict_of_the_caller_stays_as_it_is(self, api: API) -> None:
        info = {
            "name": "a", "disk_format": "raw", "visibility": "shared",
            "properties": {"instance_owner": "blue", "mappings": [{}]},
        }  # fmt: skip
        before = copy.deepcopy(info)
        api.create(ALICE, info, DATA)
        assert_that(info, Equals(before))

    def test_the_owner_of_the_instance_gets_access(self, api: API) -> None:
        info = {"name": "a", "disk_format": "raw", "properties": {"instance_owner": "blue"}}
        record = api.create(ALICE, info, DATA)
        assert_that(record["properties"], Equals({}))
        assert_that(api.get(BOB, record["id"])["name"], Equals("a"))

    @pytest.mark.parametrize("kind", ["file", "iterator", "bytes", "reader"])
    def test_data_may_be_anything_that_has_bytes(self, api: API, kind: str) -> None:
        data: Any = {
            "file": io.BytesIO(DATA),
            "iterator": iter([DATA[:1000], DATA[1000:]]),
            "bytes": DATA,
            "reader": VmwareReadHandle(DATA),
        }[kind]
        # VMware says size 0, because it does not know better.
        record = api.create(ALICE, {"name": "a", "disk_format": "raw", "size": 0}, data)
        assert_that(record, ContainsDict({"size": Equals(len(DATA)), "status": Equals("active")}))
        assert_that(b"".join(api.download(ALICE, record["id"]) or ()), Equals(DATA))

    def test_a_size_of_zero_without_data_makes_an_empty_image(
        self, api: API, tmp_path: Path
    ) -> None:
        record = api.create(ALICE, {"name": "snapshot", "size": 0})
        assert_that(record, ContainsDict({
            "status": Equals("active"), "size": Equals(0), "disk_format": Equals("raw"),
            "container_format": Equals("bare"),
        }))  # fmt: skip
        api.download(ALICE, record["id"], dest_path=str(tmp_path / "empty"))
        assert_that((tmp_path / "empty").stat().st_size, Equals(0))
        chunks = api.download(ALICE, record["id"])
        assert chunks is not None
        assert_that((bool(chunks), len(chunks), list(chunks)), Equals((True, 0, [])))

    def test_an_empty_image_is_raw(self, api: API) -> None:
        with pytest.raises(exceptions.ImageBadRequest, match="qcow2"):
            api.create(ALICE, {"name": "a", "size": 0, "disk_format": "qcow2"})

    def test_what_the_service_sets_itself_is_ignored(self, api: API, image_id: str) -> None:
        info = {**api.get(ALICE, image_id, include_locations=True), "name": "copy"}
        del info["id"]
        record = api.create(ALICE, info)
        assert_that(record, ContainsDict({
            "name": Equals("copy"), "status": Equals("queued"), "size": Is(None),
            "properties": Equals({}),
        }))  # fmt: skip

    def test_kernels_that_are_none_are_left_out(self, api: API) -> None:
        properties = {"kernel_id": " None", "ramdisk_id": "", "architecture": "x86_64"}
        record = api.create(ALICE, {"name": "a", "properties": properties, "min_disk": "3"})
        assert_that(record["properties"], Equals({"architecture": "x86_64"}))
        assert_that(record["min_disk"], Equals(3))

    def test_other_keys_become_properties(self, api: API) -> None:
        """As in Glance, whose records have no other place for them."""
        record = api.create(ALICE, {"name": "a", "hw_disk_bus": "scsi", "number": 3})
        assert_that(record["properties"], Equals({"hw_disk_bus": "scsi", "number": "3"}))

    @pytest.mark.parametrize(("is_public", "visibility"), [(True, "public"), (False, "private")])
    def test_is_public_sets_the_visibility(
        self, api: API, is_public: bool, visibility: str
    ) -> None:
        record = api.create(ADMIN, {"name": "a", "is_public": is_public})
        assert_that((record["visibility"], record["is_public"]), Equals((visibility, is_public)))

    def test_a_backend_without_locations_says_so_and_keeps_nothing(self, api: API) -> None:
        with pytest.raises(exceptions.ImageUnacceptable, match="location"):
            api.create(ALICE, {"name": "a", "location": "rbd://cluster/pool/image/snap"})
        assert_that(api.get_all(ADMIN, filters={"status": "queued"}), Equals([]))

    def test_data_that_fails_leaves_no_record(self, api: API) -> None:
        def failing() -> Iterator[bytes]:
            yield DATA
            raise OSError(errno.EIO, "the disk is damaged")

        with pytest.raises(exceptions.GlanceConnectionFailed, match="the disk is damaged"):
            api.create(ALICE, {"name": "a", "disk_format": "raw"}, failing())
        for status in ("queued", "saving", "active", "killed"):
            assert_that(api.get_all(ADMIN, filters={"status": status}), Equals([]))

    def test_what_is_refused_is_forbidden_or_invalid(self, api: API, image_id: str) -> None:
        with pytest.raises(exceptions.Forbidden):
            api.create(ALICE, {"name": "a", "visibility": "public"})
        with pytest.raises(exceptions.Invalid):
            api.create(ALICE, {"name": "a", "min_disk": "big"})
        with pytest.raises(exceptions.Invalid):
            api.create(ALICE, {"name": "a", "id": image_id})


class TestUpdate:
    def test_a_whole_record_may_be_sent_back(self, api: API, image_id: str) -> None:
        """What Nova's API for image metadata does; it made shared images private."""
        before = api.get(ALICE, image_id)
        record = copy.deepcopy(before)
        record["properties"]["colour"] = "red"
        after = api.update(ALICE, image_id, record, None, True)
        assert_that(after["properties"], Equals({"colour": "red"}))
        assert_that(after["visibility"], Equals("shared"))
        for key in set(before) - {"properties", "updated_at"}:
            assert_that(after[key], Equals(before[key]))

    def test_properties_stay_unless_they_are_to_be_purged(self, api: API, image_id: str) -> None:
        api.update(ALICE, image_id, {"properties": {"a": "1", "b": "2"}})
        record = api.update(ALICE, image_id, {"properties": {"b": 3}})
        assert_that(record["properties"], Equals({"a": "1", "b": "3"}))
        record = api.update(ALICE, image_id, {"properties": {"a": None}})
        assert_that(record["properties"], Equals({"b": "3"}))
        record = api.update(ALICE, image_id, {"properties": {"c": "4"}}, purge_props=True)
        assert_that(record["properties"], Equals({"c": "4"}))
        record = api.update(ALICE, image_id, {"name": "new"}, purge_props=True)
        assert_that((record["name"], record["properties"]), Equals(("new", {})))

    def test_a_queued_image_gets_its_data(self, api: API) -> None:
        queued = api.create(ALICE, {"name": "snapshot"})
        info = {"id": "another", "status": "active", "size": 0, "disk_format": "raw",
                "container_format": "bare", "properties": {"image_type": "snapshot"}}  # fmt: skip
        before = copy.deepcopy(info)
        record = api.update(ALICE, queued["id"], info, io.BytesIO(DATA))
        assert_that(info, Equals(before))
        assert_that(record, ContainsDict({
            "id": Equals(queued["id"]), "status": Equals("active"), "size": Equals(len(DATA)),
        }))  # fmt: skip
        with pytest.raises(exceptions.ImageBadRequest):
            api.update(ALICE, queued["id"], {}, io.BytesIO(DATA))

    def test_is_public_moves_an_image_in_and_out_of_the_public(
        self, api: API, image_id: str
    ) -> None:
        record = api.get(ADMIN, image_id)
        for is_public, visibility in ((True, "public"), (False, "private")):
            record = api.update(ADMIN, image_id, {**record, "is_public": is_public})
            assert_that(record["visibility"], Equals(visibility))

    def test_a_backend_without_locations_says_so(self, api: API) -> None:
        """libvirt then uploads the snapshot instead."""
        queued = api.create(ALICE, {"name": "snapshot"})
        with pytest.raises(exceptions.ImageUnacceptable, match="location"):
            api.update(ALICE, queued["id"], {"location": "rbd://cluster/pool/image/snap"})

    def test_errors(self, api: API, image_id: str) -> None:
        with pytest.raises(exceptions.ImageNotFound, match=MISSING):
            api.update(ALICE, MISSING, {"name": "x"})
        api.update(ADMIN, image_id, {"is_public": True})
        with pytest.raises(exceptions.ImageNotAuthorized, match=image_id):
            api.update(BOB, image_id, {"name": "x"})
        api.update(ALICE, image_id, {"protected": True})
        with pytest.raises(exceptions.ImageNotAuthorized, match=image_id):
            api.delete(ALICE, image_id)


class TestDownload:
    def test_to_a_path(self, api: API, image_id: str, tmp_path: Path) -> None:
        dest = tmp_path / "disk"
        dest.write_bytes(b"old")
        assert_that(api.download(ALICE, image_id, dest_path=str(dest)), Is(None))
        assert_that(dest.read_bytes(), Equals(DATA))

    def test_to_a_file_object_that_stays_open(self, api: API, image_id: str) -> None:
        for make in (io.BytesIO, tempfile.TemporaryFile, tempfile.NamedTemporaryFile):
            with make() as data:
                assert_that(api.download(ALICE, image_id, data=data), Is(None))
                assert_that(data.closed, Is(False))
                data.seek(0)
                assert_that(data.read(), Equals(DATA))

    def test_the_file_object_wins_over_the_path(
        self, api: API, image_id: str, tmp_path: Path
    ) -> None:
        data = io.BytesIO()
        api.download(ALICE, image_id, data, str(tmp_path / "disk"))
        assert_that((data.getvalue(), (tmp_path / "disk").exists()), Equals((DATA, False)))

    def test_an_object_needs_nothing_but_write(self, api: API, image_id: str) -> None:
        for target in (Collector(), VmwareWriteHandle()):
            api.download(ALICE, image_id, data=target)
            assert_that(b"".join(target.chunks), Equals(DATA))
            assert_that(target.chunks, AllMatch(IsInstance(bytes)))

    def test_what_cannot_be_written_to_is_an_oserror(self, api: API, image_id: str) -> None:
        for data in (object(), io.StringIO()):
            with pytest.raises(OSError, match="destination"):
                api.download(ALICE, image_id, data=data)

    def test_without_a_destination_an_iterator(self, api: API, image_id: str) -> None:
        chunks = api.download(ALICE, image_id)
        assert chunks is not None
        assert_that(iter(chunks), Is(chunks))
        assert_that((chunks.size, len(chunks)), Equals((len(DATA), len(DATA))))
        assert_that(b"".join(chunks), Equals(DATA))
        assert_that(list(chunks), Equals([]))

    def test_an_iterator_may_be_left_early(self, api: API, image_id: str) -> None:
        """VMware reads an OVA until it has found the disk, and never closes."""
        before = threading.active_count()
        with api.download(ALICE, image_id) or () as chunks:  # type: ignore[union-attr]
            next(chunks)
        assert_that(list(chunks), Equals([]))
        for chunk in api.download(ALICE, image_id) or ():
            assert_that(DATA.startswith(chunk), Is(True))
            break
        gc.collect()
        assert_that(threading.active_count(), Equals(before))

    def test_a_pipe_is_filled(self, api: API, image_id: str, tmp_path: Path) -> None:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        received = []
        reader = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
        reader.start()
        api.download(ALICE, image_id, dest_path=str(fifo))
        reader.join(10)
        assert_that(received, Equals([DATA]))

    def test_a_device_is_filled_through_a_link_too(
        self, api: API, image_id: str, tmp_path: Path
    ) -> None:
        """/dev/mapper/volume is a link."""
        link = tmp_path / "volume"
        link.symlink_to("/dev/null")
        api.download(ALICE, image_id, dest_path=str(link))
        assert_that(link.is_symlink(), Is(True))

    def test_a_destination_that_cannot_be_written_is_an_oserror_with_its_number(
        self, api: API, image_id: str, tmp_path: Path
    ) -> None:
        with pytest.raises(OSError, match="cannot") as caught:
            api.download(ALICE, image_id, dest_path=str(tmp_path / "none" / "disk"))
        assert_that(caught.value.errno, Equals(errno.ENOENT))
        assert_that(caught.value, IsInstance(ours.DestinationError))
        with (
            open("/dev/full", "wb", buffering=0) as full,
            pytest.raises(OSError, match="space") as caught,
        ):
            api.download(ALICE, image_id, data=full)
        assert_that(caught.value.errno, Equals(errno.ENOSPC))

    def test_an_image_without_data_is_unacceptable(self, api: API, tmp_path: Path) -> None:
        queued = api.create(ALICE, {"name": "queued"})
        for arguments in ({}, {"data": io.BytesIO()}, {"dest_path": str(tmp_path / "disk")}):
            with pytest.raises(exceptions.ImageUnacceptable, match=queued["id"]):
                api.download(ALICE, queued["id"], **arguments)
        assert_that(list(tmp_path.glob("*disk*")), Equals([]))

    def test_certificates_reach_the_broker_as_ids(
        self,
        api: API,
        broker: imagebroker.Broker,
        image_id: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """From Nova's object, or as a list. Nothing is passed where none are trusted."""
        seen: list[Any] = []

        def download(*arguments: Any, **options: Any) -> None:
            seen.append(options)
            original(*arguments)

        original = broker.download
        monkeypatch.setattr(broker, "download", download)
        for certificates in (SimpleNamespace(ids=["a"]), ["b"], None, SimpleNamespace(ids=[])):
            dest = str(tmp_path / "disk")
            api.download(ALICE, image_id, dest_path=dest, trusted_certs=certificates)
        assert_that(seen, Equals([{"trusted_certs": ["a"]}, {"trusted_certs": ["b"]}, {}, {}]))


class TestWrongBytes:
    """Verification, with an image whose record promises other bytes than its source sends."""

    @pytest.fixture
    def wrong(self, scripted: Scripted) -> tuple[API, str]:
        ref, _ = scripted.image(DATA, checksums={"sha256": "0" * 64})
        return API(scripted.broker, exceptions), ref

    def test_a_path_stays_what_it_was(self, wrong: tuple[API, str], tmp_path: Path) -> None:
        api, ref = wrong
        (tmp_path / "disk").write_bytes(b"old")
        with pytest.raises(exceptions.ImageUnacceptable, match="sha256"):
            api.download(ALICE, ref, dest_path=str(tmp_path / "disk"))
        assert_that((tmp_path / "disk").read_bytes(), Equals(b"old"))

    def test_a_file_object_gets_its_length_back(self, wrong: tuple[API, str]) -> None:
        api, ref = wrong
        data = io.BytesIO()
        with pytest.raises(exceptions.ImageUnacceptable):
            api.download(ALICE, ref, data=data)
        assert_that(data.getvalue(), Equals(b""))

    def test_an_iterator_ends_with_the_error_and_never_hands_out_the_last_byte(
        self, wrong: tuple[API, str]
    ) -> None:
        api, ref = wrong
        chunks = api.download(ALICE, ref)
        assert chunks is not None
        received: list[bytes] = []
        with pytest.raises(exceptions.ImageUnacceptable):
            received.extend(chunks)
        assert_that(DATA.startswith(b"".join(received)), Is(True))
        assert_that(sum(map(len, received)), LessThan(len(DATA)))
        with pytest.raises(exceptions.ImageUnacceptable):
            next(chunks)

    def test_a_broken_transfer_is_resumed(self, scripted: Scripted, tmp_path: Path) -> None:
        checksums = {"sha256": hashlib.sha256(DATA).hexdigest()}
        ref, script = scripted.image(
            DATA, version="1", checksums=checksums, breaks=[(5000, ours.TransferError("cut"))]
        )
        api = API(scripted.broker, exceptions)
        api.download(ALICE, ref, dest_path=str(tmp_path / "disk"))
        assert_that((tmp_path / "disk").read_bytes(), Equals(DATA))
        assert_that(script.reads, Equals([0, 5000]))


class TestErrors:
    @pytest.mark.parametrize("identifier", ["", "x", "a b", "1234", f"{MISSING}x", "%2e/x"])
    def test_what_is_no_identifier_is_not_found(self, api: API, identifier: str) -> None:
        """Glance says 404 to any odd id, and Nova's REST API relies on it."""
        for call in (api.get, api.delete, api.download):
            with pytest.raises(exceptions.ImageNotFound):
                call(ALICE, identifier)

    def test_each_call_says_not_found_in_the_same_way(self, api: API) -> None:
        calls: list[Callable[..., Any]] = [api.get, api.delete, api.download]
        calls += [lambda *args: api.update(*args, {})]
        for call in calls:
            with pytest.raises(exceptions.ImageNotFound) as caught:
                call(ALICE, MISSING)
            assert_that(str(caught.value), Equals(f"Image {MISSING} could not be found."))
            assert_that(caught.value.__cause__, IsInstance(imagebroker.ImageNotFound))

    def test_a_url_of_a_service_that_is_not_configured_is_unacceptable(self, api: API) -> None:
        url = f"http://evil.example:9292/v2/images/{MISSING}"
        with pytest.raises(exceptions.ImageUnacceptable) as caught:
            api.get(ALICE, url)
        assert_that(caught.value.kwargs["image_id"], Equals(MISSING))
        assert_that(caught.value.__notes__, Not(Equals([])))

    def test_the_secrets_of_a_url_are_not_shown(self, api: API) -> None:
        with pytest.raises(exceptions.ImageUnacceptable) as caught:
            api.get(ALICE, "https://host.example/disk?signature=geheim")
        assert "geheim" not in str(caught.value)

    @pytest.mark.parametrize(
        ("error", "table", "name"),
        [
            (ours.Gone("x"), OF_IMAGE, "ImageNotFound"),
            (ours.NotAuthorized("x"), OF_IMAGE, "ImageNotAuthorized"),
            (ours.NotAuthorized("x"), OF_SERVICE, "Forbidden"),
            (ours.NotAuthorized("x"), OF_DELETE, "ImageNotAuthorized"),
            (ours.ImageNotFound("x"), OF_SERVICE, "NotFound"),
            (ours.InvalidImageRef("x"), OF_IMAGE, "ImageBadRequest"),
            (ours.InvalidImageRef("x"), OF_SERVICE, "Invalid"),
            (ours.QuotaExceeded("x"), OF_UPDATE, "ImageQuotaExceeded"),
            (ours.QuotaExceeded("x"), OF_SERVICE, "ImageQuotaExceeded"),
            (ours.Conflict("x"), OF_DELETE, "ImageDeleteConflict"),
            (ours.Conflict("x"), OF_UPDATE, "ImageBadRequest"),
            (ours.PolicyViolation("x"), OF_DELETE, "ImageNotAuthorized"),
            (ours.TooLarge("x"), OF_IMAGE, "ImageUnacceptable"),
            (ours.ChecksumMismatch("x"), OF_IMAGE, "ImageUnacceptable"),
            (ours.FormatError("x"), OF_SERVICE, "ImageUnacceptable"),
            (ours.NotReady("x"), OF_IMAGE, "ImageUnacceptable"),
            (ours.BackendError("x"), OF_IMAGE, "GlanceConnectionFailed"),
            (ours.TransferTimeout("x"), OF_SERVICE, "GlanceConnectionFailed"),
            (ours.UploadFailed("x"), OF_UPDATE, "GlanceConnectionFailed"),
            (ours.ImageChanged("x"), OF_IMAGE, "GlanceConnectionFailed"),
        ],
    )
    def test_the_table(self, error: ours.ImageBrokerError, table: Any, name: str) -> None:
        raised = Errors(exceptions).of(error, table, MISSING)
        assert_that(type(raised).__name__, Equals(name))
        assert_that(type(raised).__module__, Equals(exceptions.__name__))

    def test_every_error_of_a_call_is_in_the_table_or_is_the_operators(self) -> None:
        operators = {"ImageBrokerError", "ConfigError", "BackendLoadError"}
        for table in (OF_IMAGE, OF_UPDATE, OF_DELETE, OF_SERVICE):
            left = {
                name
                for name in ours.__all__
                if type(Errors(exceptions).of(getattr(ours, name)("x"), table)).__module__
                not in (exceptions.__name__, "imagebroker.compat.errors")
            }
            assert_that(left, Equals(operators))

    def test_without_a_module_the_errors_are_ours(self, broker: imagebroker.Broker) -> None:
        api = API(broker)
        with pytest.raises(imagebroker.ImageNotFound):
            api.get(ALICE, MISSING)
        with pytest.raises(imagebroker.UnsupportedOperation):
            api.copy_image_to_store(ALICE, MISSING, "ceph")

    def test_a_name_that_the_module_lacks_is_ours(self, broker: imagebroker.Broker) -> None:
        class Found(Exception):
            """Takes a text and nothing else, as other services' exceptions do."""

        module = SimpleNamespace(ImageNotFound=Found, ImageUnacceptable="no exception")
        api = API(broker, module)
        with pytest.raises(Found, match=MISSING):
            api.get(ALICE, MISSING)
        queued = api.create(ALICE, {"name": "queued"})
        with pytest.raises(imagebroker.BackendError):
            api.download(ALICE, queued["id"])

    def test_what_is_not_ours_passes(self, api: API, image_id: str) -> None:
        class Stop(BaseException):
            pass

        class Target(Collector):
            def write(self, chunk: bytes) -> None:
                raise Stop

        with pytest.raises(Stop):
            api.download(ALICE, image_id, data=Target())


class TestOthers:
    def test_the_url_of_an_image_is_made_of_the_callers_catalogue(self) -> None:
        endpoints = [{"publicURL": "http://public:9292/v2/", "internalURL": None}]
        catalogue = [{"type": "volume", "endpoints": [{"publicURL": "http://no"}]},
                     {"type": "image", "endpoints": endpoints}]  # fmt: skip
        context = SimpleNamespace(service_catalog=catalogue)
        url = API.generate_image_url(MISSING, context)  # type: ignore[arg-type]
        assert_that(url, Equals(f"http://public:9292/v2/images/{MISSING}"))
        endpoints[0]["internalURL"] = "http://internal:9292"
        url = API.generate_image_url(MISSING, context)  # type: ignore[arg-type]
        assert_that(url, Equals(f"http://internal:9292/v2/images/{MISSING}"))

    def test_without_a_catalogue_the_ref_is_as_good(self, api: API) -> None:
        assert_that(api.generate_image_url(MISSING, ALICE), Equals(MISSING))

    def test_a_copy_between_stores_is_refused_as_nova_expects(self, api: API) -> None:
        with pytest.raises(exceptions.ImageImportImpossible, match="the file backend"):
            api.copy_image_to_store(ALICE, MISSING, "ceph")

    def test_the_names_that_the_adapter_offers(self) -> None:
        public = [name for name in vars(API) if not name.startswith("_")]
        assert_that(public, ContainsAll(["get_all", "get", "create", "update", "delete"]))
        assert_that(public, ContainsAll(["download", "generate_image_url", "copy_image_to_store"]))
        assert_that(public, HasLength(8))


class Collector:
    """An object with `write` and nothing else."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    def write(self, chunk: bytes) -> None:
        self.chunks.append(chunk)


class VmwareHandle:
    """What oslo.vmware's have in common: `seek` takes one argument, and does nothing."""

    def tell(self) -> int:
        return 0

    def fileno(self) -> int:
        raise OSError

    def seek(self, offset: int) -> None:
        pass


class VmwareReadHandle(VmwareHandle):
    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, chunk_size: int) -> bytes:
        return self._file.read(chunk_size)


class VmwareWriteHandle(VmwareHandle, Collector):
    pass
