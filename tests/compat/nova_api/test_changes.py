"""Images are created and updated with the words of Nova."""

from __future__ import annotations

import copy
import errno
import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import ContainsAll, ContainsDict, Equals, HasLength

from imagebroker.compat.nova import API
from tests.compat import exceptions
from tests.compat.nova_api.callers import ADMIN, ALICE, BOB, DATA, MISSING, VmwareHandle


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

    @pytest.mark.parametrize("kind", ["file", "bytes"])
    def test_an_empty_file_makes_an_empty_image(self, api: API, kind: str) -> None:
        data: Any = io.BytesIO(DATA) if kind == "file" else b""
        if kind == "file":
            data.seek(0, io.SEEK_END)  # what is left of it is empty
        record = api.create(ALICE, {"name": "a", "disk_format": "raw"}, data)
        assert_that((record["status"], record["size"]), Equals(("active", 0)))
        record = api.create(ALICE, {"name": "a", "disk_format": "raw"})
        record = api.update(ALICE, record["id"], {}, data)
        assert_that((record["status"], record["size"]), Equals(("active", 0)))

    def test_a_pipe_without_a_byte_is_a_writer_that_failed(self, api: API) -> None:
        with pytest.raises(exceptions.GlanceConnectionFailed, match="empty"):
            api.create(ALICE, {"name": "a", "disk_format": "raw"}, iter([]))

    def test_an_empty_image_is_raw(self, api: API) -> None:
        with pytest.raises(exceptions.ImageBadRequest, match="qcow2"):
            api.create(ALICE, {"name": "a", "size": 0, "disk_format": "qcow2"})

    def test_what_the_service_sets_itself_is_ignored(self, api: API, image_id: str) -> None:
        info = {**api.get(ALICE, image_id, include_locations=True), "name": "copy"}
        del info["id"]
        record = api.create(ALICE, info)
        assert_that(record, ContainsDict({
            "name": Equals("copy"), "status": Equals("queued"), "size": Equals(0),
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

    @pytest.mark.parametrize("catalogue", [object(), "text", {"type": "image"}, None])
    def test_a_catalogue_that_is_no_list_is_none(self, catalogue: object) -> None:
        context = SimpleNamespace(service_catalog=catalogue)
        url = API.generate_image_url(MISSING, context)  # type: ignore[arg-type]
        assert_that(url, Equals(MISSING))

    def test_without_a_catalogue_the_ref_is_as_good(self, api: API) -> None:
        assert_that(api.generate_image_url(MISSING, ALICE), Equals(MISSING))

    def test_a_copy_between_stores_is_refused_as_nova_expects(self, api: API) -> None:
        with pytest.raises(exceptions.ImageImportImpossible, match="the file backend"):
            api.copy_image_to_store(ALICE, MISSING, "ceph")

    def test_the_names_that_the_adapter_offers(self) -> None:
        public = [name for name in vars(API) if not name.startswith("_")]
        assert_that(public, ContainsAll(["get_all", "get", "create", "update", "delete"]))
        assert_that(public, ContainsAll(["download", "generate_image_url", "copy_image_to_store"]))
        assert_that(public, HasLength(9))  # and `on`, which Nova's has not


class VmwareReadHandle(VmwareHandle):
    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, chunk_size: int) -> bytes:
        return self._file.read(chunk_size)
