"""Records and lists have Nova's keys and types."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import (
    ContainsDict,
    Equals,
    HasLength,
    Is,
    IsInstance,
    MatchesStructure,
    Not,
)

import imagebroker
from imagebroker import exceptions as ours
from imagebroker.compat.errors import OF_SERVICE, Errors
from imagebroker.compat.listing import LazyList
from imagebroker.compat.nova import API
from tests.compat import exceptions
from tests.compat.nova_api.callers import ADMIN, ALICE, BOB, DATA, MISSING


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

    def test_an_unknown_size_is_0_as_in_nova(self, api: API) -> None:
        record = api.create(ALICE, {"name": "queued"})
        assert_that(record, ContainsDict({"size": Equals(0), "status": Equals("queued")}))

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
        return ids

    def test_images_of_every_status_unless_one_is_asked_for(
        self, api: API, images: list[str]
    ) -> None:
        api.create(ALICE, {"name": "queued", "disk_format": "raw"})
        assert_that(self.names(api), Equals(["queued", "c", "b", "a"]))
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
