"""Cinder's records, lists and changes are the same through the drop-in."""

from __future__ import annotations

from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, ContainsDict, Equals, HasLength, Is, Not

from tests.compat.cinder_service.conftest import MISSING, Cinder
from tests.compat.service_process import ServiceError
from tests.servers.nginx import Nginx
from tests.servers.openstack import OpenStack

pytestmark = pytest.mark.promise("cinder")

#: What a record of Cinder has only where Glance shows locations.
LOCATIONS = {"locations", "direct_url"}
#: What differs between two images.
OWN = frozenset({"id", "created_at", "updated_at", "file"})


def common(record: dict[str, Any], but: frozenset[str] = frozenset()) -> dict[str, Any]:
    """What both have; tags have no order, and what Glance notes of its own tasks is left out."""
    left = {key: value for key, value in record.items() if key not in LOCATIONS | but}
    own = record["properties"].items()
    properties = {name: value for name, value in own if not name.startswith("os_glance_")}
    return {**left, "tags": sorted(record["tags"]), "properties": properties}


def test_every_method_and_its_parameters_are_those_of_cinder(one_cinder: Cinder) -> None:
    found = one_cinder.process("signatures")
    assert_that(found["cinder"], HasLength(10))
    assert_that(found["ours"], Equals(found["cinder"]))


def test_a_stock_configuration_enables_glance_alone(one_cinder: Cinder) -> None:
    assert_that(one_cinder.use(one_cinder.openstack.endpoint), Equals(["glance"]))


def test_a_section_of_our_own_counts_more_than_cinders_options(one_cinder: Cinder) -> None:
    ours = "[imagebroker]\nenabled_schemes = glance, https\n"
    found = one_cinder.use(one_cinder.openstack.endpoint, ours)
    assert_that(sorted(found), Equals(["glance", "https"]))


@pytest.fixture(scope="module")
def images(openstack: OpenStack) -> dict[str, str]:
    """Ids of red's images by what is special about them."""
    key = "11111111-1111-4111-8111-111111111111"
    return {
        "private": openstack.create_image(b"data", visibility="private", tags=["a", "b"]),
        "queued": openstack.create_image(None),
        "protected": openstack.create_image(b"data", protected=True),
        "nameless": openstack.create_image(None, name=None, disk_format=None),
        "properties": openstack.create_image(
            b"data", hw_disk_bus="scsi", mappings='[{"device": "vda"}]', block_device_mapping="[]"
        ),
        "encrypted": openstack.create_image(b"data", cinder_encryption_key_id=key),
    }


class TestRecords:
    @pytest.mark.parametrize(
        "kind", ["private", "queued", "protected", "nameless", "properties", "encrypted"]
    )
    def test_show(self, cinder: Cinder, images: dict[str, str], kind: str) -> None:
        theirs, ours = (cinder(api, "show", images[kind]) for api in ("cinder", "ours"))
        assert_that(common(ours), Equals(common(theirs)))

    def test_detail_lists_queued_images_too(self, cinder: Cinder, images: dict[str, str]) -> None:
        for arguments in (
            {}, {"filters": {"hw_disk_bus": "scsi"}}, {"filters": {"name": "test"}},
            {"filters": {"status": "queued"}}, {"limit": 2}, {"sort_key": "name"},
            {"sort_key": "created_at", "sort_dir": "asc", "marker": images["private"]},
        ):  # fmt: skip
            theirs, ours = (cinder(api, "detail", **arguments) for api in ("cinder", "ours"))
            assert_that([*map(common, ours)], Equals([*map(common, theirs)]))
        assert_that({each["status"] for each in cinder("ours", "detail")}, Contains("queued"))

    def test_the_stores_of_glance(self, cinder: Cinder) -> None:
        theirs, ours = (cinder(api, "get_stores") for api in ("cinder", "ours"))
        assert_that(ours, Equals(theirs))
        assert_that([each["id"] for each in ours["stores"]], Contains("slow"))

    def test_the_members_of_an_image(self, cinder: Cinder, openstack: OpenStack) -> None:
        image = openstack.create_image(b"data", visibility="shared")
        blue = openstack.project_ids["blue"]
        openstack.call("red", "POST", f"/images/{image}/members", {"member": blue})
        theirs, ours = (cinder(api, "list_members", image) for api in ("cinder", "ours"))
        assert_that(ours, Equals(theirs))
        assert_that(ours[0], ContainsDict({"member_id": Equals(blue)}))


class TestChanges:
    @pytest.mark.parametrize(
        "meta",
        [
            {"name": "plain", "disk_format": "raw", "container_format": "bare"},
            {"name": "volume", "visibility": "private", "protected": False, "min_disk": 1,
             "disk_format": "raw", "container_format": "bare",
             "properties": {"hw_disk_bus": "scsi", "mappings": [{"a": 1}]}},
            {"name": "odd", "status": "active", "properties": {}},
        ],
    )  # fmt: skip
    def test_create(self, cinder: Cinder, meta: dict[str, Any]) -> None:
        records = []
        for api in ("cinder", "ours"):
            record = cinder(api, "create", meta)
            records.append(common(record, OWN))
        assert_that(records[1], Equals(records[0]))

    def test_update(self, cinder: Cinder, openstack: OpenStack) -> None:
        records = []
        for api in ("cinder", "ours"):
            image = openstack.create_image(None, a="1", b="2")
            steps = [
                cinder(api, "update", image, {"name": "n", "properties": {"a": "1", "c": "3"}}),
                cinder(api, "update", image, {"min_ram": 5}, purge_props=False),
                cinder(api, "update", image, {}, data="the bytes"),
                cinder(api, "update", image, {"name": "last"}),
            ]
            records.append([common(each, OWN) for each in steps])
        for theirs, ours in zip(*records, strict=True):
            assert_that(ours, Equals(theirs))

    @pytest.mark.parametrize("api", ["cinder", "ours"])
    def test_data_goes_into_the_store_that_is_named(
        self, cinder: Cinder, openstack: OpenStack, api: str
    ) -> None:
        image = openstack.create_image(None)
        cinder(api, "update", image, {}, data="the bytes", store_id="slow", base_image_ref=MISSING)
        assert_that(openstack.stored_file(image, "slow").read_bytes(), Equals(b"the bytes"))

    def test_delete(self, cinder: Cinder, openstack: OpenStack) -> None:
        image = openstack.create_image(b"data")
        assert_that(cinder("ours", "delete", image), Is(True))
        with pytest.raises(ServiceError, match="ImageNotFound"):
            cinder("ours", "show", image)


class TestLocations:
    def test_all_locations_with_their_metadata(
        self, one_cinder: Cinder, openstack: OpenStack, nginx: Nginx, tmp_path: Any
    ) -> None:
        one_cinder.use(openstack.locations_endpoint())
        (nginx.root / f"{tmp_path.name}.img").write_bytes(b"elsewhere")
        url = nginx.url(f"{tmp_path.name}.img")
        image = openstack.create_image(None, user="admin")
        found = one_cinder("ours", "add_location", image, url, {"type": "nfs"}, user="admin")
        assert_that(found, ContainsDict({"status": Equals("active"), "size": Equals(9)}))
        answers = [
            one_cinder(api, "get_location", image, user="admin") for api in ("cinder", "ours")
        ]
        assert_that(answers[1][1], Equals(answers[0][1]))
        assert_that(answers[1][0], Equals(url))
        assert_that(answers[1][1], HasLength(1))

    def test_where_glance_shows_none_there_is_none(
        self, cinder: Cinder, openstack: OpenStack
    ) -> None:
        image = openstack.create_image(b"data")
        answers = [cinder(api, "get_location", image) for api in ("cinder", "ours")]
        assert_that(answers[1], Equals(answers[0]))

    def test_nobody_learns_locations_of_what_they_cannot_see(
        self, cinder: Cinder, openstack: OpenStack
    ) -> None:
        image = openstack.create_image(b"data", visibility="private")
        with pytest.raises(ServiceError, match="ImageNotFound"):
            cinder("ours", "get_location", image, user="blue")


class TestErrors:
    @pytest.mark.parametrize(
        ("method", "arguments"),
        [
            ("show", [MISSING]), ("show", ["no id"]), ("download", [MISSING]),
            ("delete", [MISSING]), ("update", [MISSING, {"name": "x"}]),
            ("get_location", [MISSING]),
        ],
    )  # fmt: skip
    def test_what_is_not_there(self, cinder: Cinder, method: str, arguments: list[Any]) -> None:
        kinds = []
        for api in ("cinder", "ours"):
            with pytest.raises(ServiceError) as caught:
                cinder(api, method, *arguments)
            kinds.append(caught.value.kind)
        assert_that(kinds, Equals(["cinder.exception.ImageNotFound"] * 2))

    @pytest.mark.parametrize("method", ["show", "download"])
    def test_a_token_that_is_none(self, cinder: Cinder, openstack: OpenStack, method: str) -> None:
        kinds = []
        for api in ("cinder", "ours"):
            with pytest.raises(ServiceError) as caught:
                cinder(api, method, openstack.create_image(b"data"), user="nobody")
            kinds.append(caught.value.kind)
        assert_that(kinds, Equals(["cinder.exception.ImageNotAuthorized"] * 2))

    def test_an_image_without_data(self, cinder: Cinder, openstack: OpenStack) -> None:
        """Cinder means that, too, and trips over what glanceclient returns."""
        image = openstack.create_image(None)
        with pytest.raises(ServiceError) as caught:
            cinder("ours", "download", image)
        assert_that(caught.value.kind, Equals("cinder.exception.ImageDownloadFailed"))

    def test_members_of_nothing(self, cinder: Cinder) -> None:
        """Cinder's own list fails when it is read, with an error of glanceclient's."""
        with pytest.raises(ServiceError, match=r"cinder\.exception\.ImageNotFound"):
            cinder("ours", "list_members", MISSING)

    def test_damaged_content_is_refused(self, cinder: Cinder, openstack: OpenStack) -> None:
        image = openstack.create_image(bytes(1 << 16))
        openstack.stored_file(image).write_bytes(b"x" * (1 << 16))
        with pytest.raises(ServiceError, match=r"cinder\.exception\.ImageUnacceptable"):
            cinder("ours", "download", image)

    def test_a_url_of_another_server_gets_no_token(
        self, cinder: Cinder, nginx: Nginx, openstack: OpenStack
    ) -> None:
        with pytest.raises(ServiceError) as caught:
            cinder.do("remote", href=nginx.url(f"v2/images/{MISSING}"))
        assert_that(caught.value.kind, Equals("cinder.exception.ImageUnacceptable"))
        image = openstack.create_image(b"data")
        href = f"{openstack.endpoint}/v2/images/{image}"
        assert_that(cinder.do("remote", href=href), Equals(image))
        assert_that(cinder.do("remote", href=image), Not(Is(None)))
