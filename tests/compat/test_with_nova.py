"""The drop-in in Nova itself, beside Nova's own API, both at a real Glance."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from testtools.assertions import assert_that
from testtools.matchers import (
    Contains,
    ContainsDict,
    Equals,
    HasLength,
    Is,
    LessThan,
    Not,
)

from tests.compat.nova_process import NovaProcess, ServiceError, missing
from tests.servers.fixtures import require
from tests.servers.images import make_qcow2, random_file
from tests.servers.nginx import Nginx
from tests.servers.openstack import OpenStack
from tests.servers.tcp import Fault, TcpProxy

pytestmark = pytest.mark.promise("nova-34")

MISSING = "00000000-0000-4000-8000-000000000000"
#: What a record of ours has beyond Nova's.
MORE = {"visibility", "tags", "protected", "virtual_size"}


class Services:
    """Nova's code in a process, and the Glance that it speaks to."""

    def __init__(self, process: NovaProcess, openstack: OpenStack, folder: Path) -> None:
        self.process = process
        self.openstack = openstack
        self._folder = folder
        self._tokens: dict[str, str] = {}

    def use(self, endpoint: str, *, stall_timeout: float = 10) -> bool:
        """Let both APIs speak to the Glance at `endpoint`; whether Nova's threads are green."""
        config = self._folder / "nova.conf"
        config.write_text(
            "[imagebroker]\nenabled_schemes = glance\ndefault_backend = glance\n"
            f"retry_backoff = 0\nstall_timeout = {stall_timeout}\n"
            f"[backend:glance]\nendpoint = {endpoint}/\n"
        )
        folder = str(self._folder)
        return bool(self.process("use", config=str(config), endpoint=endpoint, folder=folder))

    def context(self, user: str, token: str | None = None) -> dict[str, Any]:
        if user not in self._tokens:
            self._tokens[user] = self.openstack.token(user)
        return {
            "token": token or self._tokens[user],
            "user": self.openstack.user_ids[user],
            "project": self.openstack.project_ids[self.openstack.users[user].project],
            "is_admin": user == "admin",
        }

    def __call__(self, api: str, method: str, *args: Any, user: str = "red", **kwargs: Any) -> Any:
        """A method of `nova` or `ours`; `user="nobody"` has a token that no Keystone made."""
        context = self.context("red", "made-up") if user == "nobody" else self.context(user)
        return self.process(
            "call", api=api, method=method, context=context, args=list(args), kwargs=kwargs
        )

    def do(self, what: str, **arguments: Any) -> Any:
        """`fetch`, `fetch_to_raw` or `image_meta` as red."""
        return self.process(what, context=self.context("red"), **arguments)


@pytest.fixture(scope="module", params=["threading", "eventlet"])
def concurrent_nova(
    request: pytest.FixtureRequest, openstack: OpenStack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Services]:
    """Nova as its services start it, with threads and with green threads."""
    require(missing())
    folder = tmp_path_factory.mktemp("nova")
    with NovaProcess(folder, request.param) as process:
        services = Services(process, openstack, folder)
        assert_that(services.use(openstack.endpoint), Is(request.param == "eventlet"))
        yield services


@pytest.fixture(scope="module")
def one_nova(openstack: OpenStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    require(missing())
    folder = tmp_path_factory.mktemp("nova")
    with NovaProcess(folder) as process:
        yield Services(process, openstack, folder)


@pytest.fixture
def nova(one_nova: Services) -> Services:
    one_nova.use(one_nova.openstack.endpoint)
    return one_nova


def proxy_of(endpoint: str) -> Callable[..., TcpProxy]:
    parts = urlsplit(endpoint)
    return lambda *args, **kwargs: TcpProxy(str(parts.hostname), parts.port or 80, *args, **kwargs)


def test_the_public_members_and_their_signatures_are_those_of_nova(one_nova: Services) -> None:
    found = one_nova.process("signatures")
    assert_that(found["nova"], HasLength(8))
    assert_that(found["ours"], Equals(found["nova"]))


class TestFetch:
    """`nova.virt.images` with our API as its IMAGE_API."""

    @pytest.fixture
    def fetching(self, concurrent_nova: Services) -> Services:
        concurrent_nova.use(concurrent_nova.openstack.endpoint)
        return concurrent_nova

    @pytest.fixture
    def qcow2(self, qemu_img: None, tmp_path: Path, openstack: OpenStack) -> tuple[str, Path]:
        """An image in Glance, and the same in a file."""
        path = make_qcow2(tmp_path / "original", 8 << 20, data=1 << 20)
        return openstack.create_image(path.read_bytes(), disk_format="qcow2"), path

    def test_fetch_stores_the_right_bytes(
        self, fetching: Services, qcow2: tuple[str, Path], tmp_path: Path
    ) -> None:
        image, original = qcow2
        fetching.do("fetch", image=image, path=str(tmp_path / "disk"))
        assert_that((tmp_path / "disk").read_bytes() == original.read_bytes(), Is(True))

    def test_fetch_takes_a_url_below_the_endpoint(
        self, fetching: Services, qcow2: tuple[str, Path], tmp_path: Path
    ) -> None:
        image, original = qcow2
        url = f"{fetching.openstack.endpoint}/v2/images/{image}"
        fetching.do("fetch", image=url, path=str(tmp_path / "disk"))
        assert_that((tmp_path / "disk").read_bytes() == original.read_bytes(), Is(True))

    def test_fetch_to_raw_inspects_and_converts(
        self, fetching: Services, qcow2: tuple[str, Path], tmp_path: Path
    ) -> None:
        image, original = qcow2
        folder = tmp_path / "base"
        folder.mkdir()
        fetching.do("fetch_to_raw", image=image, path=str(folder / "disk"))
        assert_that([each.name for each in folder.iterdir()], Equals(["disk"]))
        assert_that((folder / "disk").stat().st_size, Equals(8 << 20))
        compare = ["qemu-img", "compare", "-f", "raw", "-F", "qcow2"]
        subprocess.run([*compare, folder / "disk", original], check=True, capture_output=True)

    def test_fetch_goes_on_where_a_connection_broke(
        self, fetching: Services, openstack: OpenStack, tmp_path: Path
    ) -> None:
        """Nova's own API fails here, and leaves half of the image."""
        path = random_file(tmp_path / "original", 4 << 20)
        image = openstack.create_image(path.read_bytes())
        dest = tmp_path / "disk"
        with proxy_of(openstack.endpoint)(Fault(cut_after=2 << 20)) as proxy:
            fetching.use(f"http://{proxy.host}:{proxy.port}")
            with pytest.raises(ServiceError):
                fetching("nova", "download", image, dest_path=str(dest))
            assert_that(dest.stat().st_size, Not(Equals(4 << 20)))
            before = proxy.received
            fetching.do("fetch", image=image, path=str(dest))
            assert_that(dest.read_bytes() == path.read_bytes(), Is(True))
            # It went on; it did not begin again.
            assert_that(proxy.received - before, LessThan((4 << 20) + (64 << 10)))

    def test_fetch_goes_on_where_a_connection_stalled(
        self, fetching: Services, openstack: OpenStack, tmp_path: Path
    ) -> None:
        """Nova's own API would wait for ever."""
        path = random_file(tmp_path / "original", 3 << 20)
        image = openstack.create_image(path.read_bytes())
        with proxy_of(openstack.endpoint)(Fault(stall_after=2 << 20)) as proxy:
            fetching.use(f"http://{proxy.host}:{proxy.port}", stall_timeout=3)
            fetching.do("fetch", image=image, path=str(tmp_path / "disk"))
        assert_that((tmp_path / "disk").read_bytes() == path.read_bytes(), Is(True))

    def test_damaged_content_is_unacceptable_and_nothing_is_left(
        self, fetching: Services, openstack: OpenStack, tmp_path: Path
    ) -> None:
        image = openstack.create_image(bytes(1 << 20))
        with openstack.stored_file(image).open("r+b") as file:
            file.write(b"damaged")
        folder = tmp_path / "base"
        folder.mkdir()
        with pytest.raises(ServiceError) as caught:
            fetching.do("fetch", image=image, path=str(folder / "disk"))
        assert_that(caught.value.kind, Equals("nova.exception.ImageUnacceptable"))
        assert_that(caught.value.text, Contains("sha512"))
        assert_that(list(folder.iterdir()), Equals([]))


class TestSameErrors:
    """The exception that Nova's own API raises, from both."""

    def kinds(self, nova: Services, *args: Any, **kwargs: Any) -> tuple[str, str]:
        found = []
        for api in ("nova", "ours"):
            with pytest.raises(ServiceError) as caught:
                nova(api, *args, **kwargs)
            found.append(caught.value.kind)
        return found[0], found[1]

    @pytest.mark.parametrize(
        ("expected", "method", "args", "kwargs"),
        [
            ("ImageNotFound", "get", [MISSING], {}),
            ("ImageNotFound", "get", ["no-id"], {}),
            ("ImageNotFound", "get", ["{private}"], {"user": "blue"}),
            ("ImageNotAuthorized", "get", [MISSING], {"user": "nobody"}),
            ("ImageNotFound", "download", [MISSING], {}),
            ("ImageNotAuthorized", "download", [MISSING], {"user": "nobody"}),
            ("ImageNotAuthorized", "download", ["{private}"], {"user": "reader"}),
            ("ImageUnacceptable", "download", ["{queued}"], {}),
            ("ImageNotFound", "update", [MISSING, {"name": "x"}], {}),
            ("ImageNotAuthorized", "update", ["{public}", {"name": "x"}], {"user": "blue"}),
            ("ImageBadRequest", "update", ["{queued}", {"min_disk": 1 << 40}], {}),
            ("ImageNotFound", "delete", [MISSING], {}),
            ("ImageNotFound", "delete", ["no-id"], {}),
            ("ImageNotAuthorized", "delete", ["{public}"], {"user": "blue"}),
            ("ImageNotAuthorized", "delete", ["{protected}"], {}),
            ("Forbidden", "create", [{"name": "x", "visibility": "public"}], {}),
            ("Forbidden", "create", [{"name": "x"}], {"user": "nobody"}),
            ("Invalid", "create", [{"name": "x", "min_ram": 1 << 40}], {}),
            ("ImageBadRequest", "create", [{"size": 0, "disk_format": "qcow2"}], {}),
            ("Forbidden", "get_all", [], {"user": "nobody"}),
            ("Invalid", "get_all", [], {"marker": MISSING}),
            ("Invalid", "get_all", [], {"sort_dir": "up"}),
        ],
    )
    def test_they_agree(
        self,
        nova: Services,
        images: dict[str, str],
        expected: str,
        method: str,
        args: list[Any],
        kwargs: dict[str, Any],
    ) -> None:
        args = [each.format(**images) if isinstance(each, str) else each for each in args]
        kinds = self.kinds(nova, method, *args, **kwargs)
        assert_that(kinds, Equals((f"nova.exception.{expected}", f"nova.exception.{expected}")))

    @pytest.mark.parametrize("method", ["get", "delete", "download", "get_all", "create"])
    def test_a_glance_that_does_not_answer(
        self, one_nova: Services, openstack: OpenStack, method: str
    ) -> None:
        args = {"get_all": [], "create": [{"name": "x"}]}.get(method, [MISSING])
        with proxy_of(openstack.endpoint)() as proxy:
            proxy.refuse()
            one_nova.use(f"http://{proxy.host}:{proxy.port}")
            kinds = self.kinds(one_nova, method, *args)
        assert_that(kinds, Equals(("nova.exception.GlanceConnectionFailed",) * 2))


class TestMendedErrors:
    """Where Nova raises something that its callers do not catch."""

    def errors(self, nova: Services, *args: Any, **kwargs: Any) -> tuple[str, str]:
        return TestSameErrors().kinds(nova, *args, **kwargs)

    def test_a_delete_without_a_valid_token(self, nova: Services) -> None:
        theirs, ours = self.errors(nova, "delete", MISSING, user="nobody")
        assert_that(theirs, Equals("glanceclient.exc.HTTPUnauthorized"))
        assert_that(ours, Equals("nova.exception.ImageNotAuthorized"))

    def test_damaged_content(self, nova: Services, openstack: OpenStack) -> None:
        image = openstack.create_image(bytes(1 << 16))
        openstack.stored_file(image).write_bytes(b"x" * (1 << 16))
        theirs, ours = self.errors(nova, "download", image)
        assert_that(theirs, Equals("builtins.BrokenPipeError"))
        assert_that(ours, Equals("nova.exception.ImageUnacceptable"))

    def test_values_that_are_not_in_the_schema(
        self, nova: Services, images: dict[str, str]
    ) -> None:
        info = {"name": "x", "disk_format": "paper"}
        theirs, ours = self.errors(nova, "create", info)
        assert_that((theirs, ours), Equals(("builtins.TypeError", "nova.exception.Invalid")))
        _, ours = self.errors(nova, "update", images["queued"], info)
        assert_that(ours, Equals("nova.exception.ImageBadRequest"))

    def test_data_for_an_image_that_has_some(self, nova: Services, openstack: OpenStack) -> None:
        image = openstack.create_image(b"first")
        theirs, ours = self.errors(nova, "update", image, {}, data="second")
        assert_that(theirs, Equals("glanceclient.exc.HTTPConflict"))
        assert_that(ours, Equals("nova.exception.ImageBadRequest"))

    def test_the_url_of_a_glance_that_is_not_configured_gets_no_token(
        self, nova: Services, openstack: OpenStack
    ) -> None:
        with proxy_of(openstack.endpoint)() as proxy:
            url = f"http://{proxy.host}:{proxy.port}/v2/images/{MISSING}"
            with pytest.raises(ServiceError) as caught:
                nova("ours", "get", url)
            assert_that(proxy.connections, Equals(0))
        assert_that(caught.value.kind, Equals("nova.exception.ImageUnacceptable"))


@pytest.fixture(scope="module")
def images(openstack: OpenStack) -> dict[str, str]:
    """Ids of red's images by what is special about them."""
    found = {
        "private": openstack.create_image(b"data", visibility="private", tags=["a", "b"]),
        "queued": openstack.create_image(None),
        "protected": openstack.create_image(b"data", protected=True),
        "public": openstack.create_image(b"data", min_disk=1, min_ram=2, os_hidden=True),
        "properties": openstack.create_image(
            b"data", hw_disk_bus="scsi", mappings='[{"device": "vda"}]', block_device_mapping="[]"
        ),
        "nameless": openstack.create_image(None, name=None, disk_format=None),
    }
    change = [{"op": "replace", "path": "/visibility", "value": "public"}]
    openstack.call("admin", "PATCH", f"/images/{found['public']}", change)
    return found


def common(record: dict[str, Any]) -> dict[str, Any]:
    """What both records have."""
    return {key: value for key, value in record.items() if key not in MORE}


class TestSameRecords:
    @pytest.mark.parametrize(
        "kind", ["private", "queued", "protected", "public", "properties", "nameless"]
    )
    def test_get(self, nova: Services, images: dict[str, str], kind: str) -> None:
        theirs = nova("nova", "get", images[kind])
        ours = nova("ours", "get", images[kind])
        assert_that(common(ours), Equals(theirs))
        assert_that(set(ours) - set(theirs), Equals(MORE))

    def test_get_with_locations(
        self, one_nova: Services, openstack: OpenStack, images: dict[str, str]
    ) -> None:
        """Nova lists the first location twice."""
        one_nova.use(openstack.locations_endpoint())
        theirs = one_nova("nova", "get", images["private"], include_locations=True)
        ours = one_nova("ours", "get", images["private"], include_locations=True)
        assert_that(theirs["locations"], HasLength(2))
        assert_that(ours["locations"], Equals(theirs["locations"][:1]))
        assert_that(ours["direct_url"], Equals(theirs["direct_url"]))

    def test_get_all(self, nova: Services, images: dict[str, str]) -> None:
        for filters in ({}, {"property-hw_disk_bus": "scsi"}, {"name": "test"}, {"min_ram": "2"}):
            arguments = {"filters": {"status": "active", **filters}, "sort_dir": "asc"}
            theirs = nova("nova", "get_all", **arguments)
            ours = nova("ours", "get_all", **arguments, page_size=2)
            assert_that([common(each) for each in ours], Equals(theirs))

    def test_get_all_without_a_status_shows_images_of_every_status(
        self, nova: Services, images: dict[str, str]
    ) -> None:
        """A user of Nova's API sees a snapshot while it is saved."""
        theirs = [(each["id"], each["status"]) for each in nova("nova", "get_all")]
        ours = [(each["id"], each["status"]) for each in nova("ours", "get_all")]
        assert_that({status for _, status in theirs}, Equals({"active", "queued"}))
        assert_that(ours, Equals(theirs))

    @pytest.mark.parametrize(
        "info",
        [
            {"name": "plain", "disk_format": "raw", "container_format": "bare"},
            {"name": "sized", "size": 5, "min_disk": "3", "status": "active", "deleted": False},
            {"name": "empty", "size": 0},
            {"name": "secret", "is_public": False, "tags": ["a"]},
            {"name": "odd", "hw_disk_bus": "scsi", "properties": {"kernel_id": "None"}},
            # What a snapshot of a server with volumes sends.
            {"name": "snapshot", "visibility": "private", "size": 0, "min_ram": 0, "properties": {
                "root_device_name": "/dev/vda", "bdm_v2": True, "image_location": "snapshot",
                "block_device_mapping": [{"snapshot_id": "x", "boot_index": 0, "no": None}]}},
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("data", [None, "the bytes", ""])
    def test_create(self, nova: Services, info: dict[str, Any], data: str | None) -> None:
        if data is not None:
            info = {"disk_format": "raw", "container_format": "bare", **info}
        records = []
        for api in ("nova", "ours"):
            record = nova(api, "create", info, **({} if data is None else {"data": data}))
            for key in ("id", "created_at", "updated_at", "direct_url", "stores"):
                record.pop(key, None)
            records.append(record)
        theirs, ours = records
        assert_that(common(ours), Equals(theirs))

    def test_update(self, nova: Services, openstack: OpenStack) -> None:
        records = []
        for api in ("nova", "ours"):
            image = openstack.create_image(None, a="1", b="2")
            steps = [
                nova(api, "update", image, {"name": "new", "properties": {"c": 3}}),
                nova(api, "update", image, {"properties": {"a": "x"}}, purge_props=True),
                nova(api, "update", image, {"id": MISSING, "min_ram": "5"}, data="the bytes"),
            ]
            for record in steps:
                for key in ("id", "created_at", "updated_at", "stores"):
                    record.pop(key, None)
            records.append(steps)
        theirs, ours = records
        assert_that([*map(common, ours)], Equals(theirs))
        assert_that(ours[1]["properties"], Equals({"a": "x"}))

    def test_a_record_that_is_sent_back_stays_shared(
        self, nova: Services, openstack: OpenStack
    ) -> None:
        """Nova's API for image metadata does that, and makes the image private."""
        for api, visibility in (("nova", "private"), ("ours", "shared")):
            image = openstack.create_image(b"data")
            record = nova(api, "get", image)
            del record["created_at"], record["updated_at"]
            record["properties"]["colour"] = "red"
            after = nova(api, "update", image, record, purge_props=True)
            assert_that(after["properties"], Equals({"colour": "red"}))
            stored = openstack.call("red", "GET", f"/images/{image}")
            assert_that(stored["visibility"], Equals(visibility))

    def test_delete(self, nova: Services, openstack: OpenStack) -> None:
        for api in ("nova", "ours"):
            image = openstack.create_image(b"data")
            assert_that(nova(api, "delete", image), Is(True))
            with pytest.raises(ServiceError, match="ImageNotFound"):
                nova(api, "get", image)

    def test_download_to_a_path_an_object_and_an_iterator(
        self, nova: Services, openstack: OpenStack, tmp_path: Path
    ) -> None:
        path = random_file(tmp_path / "original", 300_000)
        image = openstack.create_image(path.read_bytes())
        for api in ("nova", "ours"):
            dest = tmp_path / api
            assert_that(nova(api, "download", image, dest_path=str(dest)), Is(None))
            assert_that(dest.read_bytes() == path.read_bytes(), Is(True))
            assert_that(nova(api, "download", image, data=""), Is(None))
            assert_that(bytes.fromhex(nova(api, "download", image)), Equals(path.read_bytes()))


class TestWithGlance:
    @pytest.mark.parametrize("kind", ["private", "queued", "nameless", "properties"])
    def test_nova_makes_its_own_objects_of_our_records(
        self, nova: Services, images: dict[str, str], kind: str
    ) -> None:
        """Its fields take no None; a size that nobody knows is 0 there."""
        meta = nova.do("image_meta", image=images[kind])
        assert_that(meta["id"], Equals(images[kind]))
        assert_that(meta["size"], Equals(4 if kind in ("private", "properties") else 0))

    def test_the_owner_of_the_instance_gets_access(self, nova: Services) -> None:
        owner = nova.openstack.project_ids["blue"]
        info = {"name": "snapshot", "visibility": "shared", "disk_format": "raw",
                "container_format": "bare", "properties": {"instance_owner": owner}}  # fmt: skip
        record = nova("ours", "create", info, data="bytes")
        assert_that(record["properties"], Equals({}))
        assert_that(nova("ours", "get", record["id"], user="blue")["size"], Equals(5))

    def test_an_image_of_a_location_is_registered(
        self, one_nova: Services, openstack: OpenStack, nginx: Nginx, tmp_path: Path
    ) -> None:
        one_nova.use(openstack.locations_endpoint())
        name = f"{tmp_path.name}.img"
        (nginx.root / name).write_bytes(b"elsewhere")
        source = nginx.url(name)
        info = {"disk_format": "raw", "container_format": "bare", "location": source}
        created = one_nova("ours", "create", {"name": "elsewhere", **info}, user="admin")
        queued = openstack.create_image(None, user="admin")
        updated = one_nova("ours", "update", queued, info, user="admin")
        for record in (created, updated):
            assert_that(record, ContainsDict({"status": Equals("active"), "size": Equals(9)}))
            found = one_nova("ours", "get", record["id"], True, user="admin")
            assert_that([each["url"] for each in found["locations"]], Equals([source]))

    def test_a_copy_into_another_store_is_begun_and_shows_in_the_record(
        self, one_nova: Services, openstack: OpenStack
    ) -> None:
        one_nova.use(openstack.endpoint)
        image = openstack.create_image(b"the bytes", user="admin")
        one_nova("ours", "copy_image_to_store", image, "slow", user="admin")
        ends = time.monotonic() + 60
        while "slow" not in one_nova("ours", "get", image, True, user="admin")["stores"]:
            assert time.monotonic() < ends
        assert_that(openstack.stored_file(image, "slow").read_bytes(), Equals(b"the bytes"))

    @pytest.mark.parametrize("kind", ["copied", "queued", "no such store", "missing"])
    def test_a_copy_that_cannot_be_is_the_same_error(
        self, one_nova: Services, openstack: OpenStack, kind: str
    ) -> None:
        one_nova.use(openstack.endpoint)
        data = None if kind == "queued" else b"the bytes"
        image = MISSING if kind == "missing" else openstack.create_image(data, user="admin")
        store = {"copied": "fast", "no such store": "nowhere"}.get(kind, "slow")
        errors = []
        for api in ("nova", "ours"):
            with pytest.raises(ServiceError) as caught:
                one_nova(api, "copy_image_to_store", image, store, user="admin")
            errors.append(str(caught.value).partition(":")[0])
        assert_that(errors[1], Equals(errors[0]))

    def test_a_location_that_glance_refuses_leaves_no_record(self, nova: Services) -> None:
        before = nova("ours", "get_all", filters={"status": "queued"})
        with pytest.raises(ServiceError, match=r"nova\.exception\.Forbidden"):
            nova("ours", "create", {"name": "x", "location": "rbd://a/b/c/d"})
        after = nova("ours", "get_all", filters={"status": "queued"})
        assert_that(len(after), Equals(len(before)))
