"""Images in the real Glance, found through the real Keystone, mostly through a broker."""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from imagebroker_glance import GlanceBackend
from oslo_context.context import RequestContext
from testtools.assertions import assert_that
from testtools.matchers import (
    Contains,
    Equals,
    HasLength,
    Is,
    LessThan,
    MatchesSetwise,
    MatchesStructure,
    StartsWith,
)

import imagebroker
from imagebroker.plugin import (
    BackendError,
    ConfigError,
    Conflict,
    FormatError,
    Image,
    ImageData,
    ImageNotFound,
    ImageQuery,
    InvalidImageRef,
    NotAuthorized,
    NotReady,
    PolicyViolation,
    RangeIgnored,
    TransferError,
    UploadFailed,
    VerificationError,
)
from tests.plugins.glance_stub import make_backend, make_host, opened, ref_of
from tests.servers.images import make_qcow2
from tests.servers.openstack import OpenStack
from tests.servers.tcp import Fault, TcpProxy

DATA = os.urandom(3_000_000)
MakeBroker = Callable[[str], imagebroker.Broker]


def backend_for(openstack: OpenStack, user: str = "red", **options: object) -> GlanceBackend:
    """A backend that finds Glance in the catalogue."""
    return make_backend(**{**openstack.auth_options(user), **options})


def config(openstack: OpenStack, user: str = "red", *endpoints: str, core: str = "") -> str:
    options = "\n".join(f"{key} = {value}" for key, value in openstack.auth_options(user).items())
    return (
        f"[imagebroker]\nenabled_schemes = glance\ndefault_backend = glance\nretry_backoff = 0\n"
        f"{core}\n[backend:glance]\n{options}\nallowed_networks = 127.0.0.0/8\n"
        f"endpoint = {','.join(endpoints)}\n"
    )


@pytest.fixture
def broker(openstack: OpenStack, make_broker: MakeBroker) -> imagebroker.Broker:
    """For the service itself, which is red."""
    return make_broker(config(openstack))


@pytest.fixture(scope="module")
def stored(openstack: OpenStack) -> str:
    """The id of an active image of red's."""
    return openstack.create_image(DATA, name="stored", tags=["one", "two"], os_type="linux")


@pytest.fixture
def proxy(openstack: OpenStack) -> Iterator[TcpProxy]:
    """A proxy before Glance, without a fault so far."""
    with proxied(openstack) as server:
        yield server


def proxied(openstack: OpenStack, fault: Fault | None = None) -> TcpProxy:
    target = urlsplit(openstack.endpoint)
    return TcpProxy(str(target.hostname), int(target.port or 0), fault or Fault())


def url_of(proxy: TcpProxy) -> str:
    return f"http://{proxy.host}:{proxy.port}/"


def of(openstack: OpenStack, user: str) -> RequestContext:
    return RequestContext(auth_token=openstack.token(user))


# -- download --------------------------------------------------------------------------------------


def test_an_image_is_downloaded_and_verified(
    broker: imagebroker.Broker, stored: str, tmp_path: Path
) -> None:
    done = broker.download(None, stored, tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    assert_that(done.evidence["sha512"], Equals(hashlib.sha512(DATA).hexdigest()))


def test_a_url_below_the_endpoint_is_an_image(
    openstack: OpenStack, make_broker: MakeBroker, stored: str, tmp_path: Path
) -> None:
    broker = make_broker(config(openstack, "red", openstack.endpoint + "/"))
    broker.download(None, f"{openstack.endpoint}/v2/images/{stored}", tmp_path / "image")
    broker.download(None, f"{openstack.endpoint}/v2/images/{stored}/file", tmp_path / "again")
    assert_that((tmp_path / "again").read_bytes(), Equals((tmp_path / "image").read_bytes()))


def test_callers_see_what_their_own_token_shows(
    openstack: OpenStack, broker: imagebroker.Broker, stored: str, tmp_path: Path
) -> None:
    broker.download(of(openstack, "red"), stored, tmp_path / "image")
    with pytest.raises(ImageNotFound):
        broker.download(of(openstack, "blue"), stored, tmp_path / "other")
    assert_that(broker.get(of(openstack, "reader"), stored).name, Equals("stored"))
    with pytest.raises(NotAuthorized):
        broker.download(of(openstack, "reader"), stored, tmp_path / "other")
    with pytest.raises(NotAuthorized):
        broker.download(RequestContext(), stored, tmp_path / "other")
    with pytest.raises(NotAuthorized):
        broker.download(RequestContext(auth_token="invented"), stored, tmp_path / "other")
    assert_that((tmp_path / "other").exists(), Is(False))


def test_the_service_token_goes_along_where_it_is_asked_for(
    openstack: OpenStack, stored: str
) -> None:
    backend = backend_for(openstack, "service", send_service_user_token=True)
    assert_that(backend.get(of(openstack, "red"), ref_of(stored)).id, Equals(stored))


def test_without_credentials_only_callers_are_served(openstack: OpenStack, stored: str) -> None:
    backend = make_backend(auth_url=openstack.auth_url)
    assert_that(backend.get(of(openstack, "red"), ref_of(stored)).id, Equals(stored))
    with pytest.raises(ConfigError) as caught:
        backend.get(None, ref_of(stored))
    assert_that(caught.value.hint, Contains("auth_type"))


@pytest.mark.parametrize(
    "wrong", [{"password": "wrong"}, {"username": "nobody"}, {"project_name": "blue"}]
)
def test_wrong_credentials_are_not_authorized(
    openstack: OpenStack, stored: str, wrong: dict[str, str]
) -> None:
    with pytest.raises(NotAuthorized):
        backend_for(openstack, **wrong).get(None, ref_of(stored))


@pytest.mark.parametrize("ending", ["", "/", "/v3", "/v3/"])
def test_any_spelling_of_the_auth_url_will_do(
    openstack: OpenStack, stored: str, ending: str
) -> None:
    root = openstack.auth_url.removesuffix("/v3")
    backend = backend_for(openstack, auth_url=root + ending)
    assert_that(backend.get(None, ref_of(stored)).id, Equals(stored))
    assert_that(backend.get(of(openstack, "red"), ref_of(stored)).id, Equals(stored))


def test_a_region_that_is_not_in_the_catalogue_is_a_matter_of_configuration(
    openstack: OpenStack, stored: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        backend_for(openstack, region_name="Atlantis").get(None, ref_of(stored))
    assert_that(caught.value.hint, Contains("region_name"))
    right = backend_for(openstack, region_name=openstack.region, valid_interfaces=["internal"])
    assert_that(right.get(None, ref_of(stored)).id, Equals(stored))


def test_the_record_says_all_that_is_known(openstack: OpenStack, stored: str) -> None:
    image = backend_for(openstack).get(None, ref_of(stored))
    assert_that(image, MatchesStructure.byEquality(
        ref=f"glance:{stored}", id=stored, name="stored", status="active", visibility="shared",
        owner=openstack.project_ids["red"], hidden=False, protected=False, size=len(DATA),
        disk_format="raw", container_format="bare", min_disk=0, min_ram=0, deleted_at=None,
        locations=None, version=f"sha512:{hashlib.sha512(DATA).hexdigest()}",
    ))  # fmt: skip
    assert_that(image.tags, MatchesSetwise(Equals("one"), Equals("two")))
    assert_that(dict(image.properties), Equals({"os_type": "linux"}))
    assert_that(
        dict(image.checksums),
        Equals({"sha512": hashlib.sha512(DATA).hexdigest(), "md5": hashlib.md5(DATA).hexdigest()}),
    )
    assert image.created_at is not None
    assert_that(image.created_at.utcoffset() is not None, Is(True))


def test_an_instance_has_refs_of_its_own(openstack: OpenStack, stored: str) -> None:
    backend = GlanceBackend(make_host(instance="east", **openstack.auth_options("red")))
    assert_that(backend.get(None, ref_of(stored)).ref, Equals(f"glance:east:{stored}"))


def test_locations_are_shown_when_asked_for(openstack: OpenStack, stored: str) -> None:
    for options in ({}, {"endpoint": [openstack.locations_endpoint() + "/"]}):
        backend = backend_for(openstack, **options)
        found = backend.get(None, ref_of(stored), include_locations=True).locations
        assert_that(found, HasLength(1))
        assert_that(found[0].url, StartsWith("file:///"))


def test_an_image_without_data_is_not_ready(openstack: OpenStack) -> None:
    with pytest.raises(NotReady):
        backend_for(openstack).open(None, ref_of(openstack.create_image(None)))


def test_a_deactivated_image_is_refused_even_to_an_admin(openstack: OpenStack) -> None:
    image_id = openstack.create_image(DATA)
    openstack.call("admin", "POST", f"/images/{image_id}/actions/deactivate")
    for user in ("red", "admin"):
        with pytest.raises(PolicyViolation):
            backend_for(openstack, user).open(None, ref_of(image_id))


def test_a_deleted_image_and_one_that_never_was_are_not_found(openstack: OpenStack) -> None:
    image_id = openstack.create_image(DATA)
    backend = backend_for(openstack)
    backend.delete(None, ref_of(image_id))
    for each in (image_id, str(uuid.uuid4())):
        with pytest.raises(ImageNotFound):
            backend.open(None, ref_of(each))
        with pytest.raises(ImageNotFound):
            backend.delete(None, ref_of(each))


def test_a_missing_file_is_not_ready(openstack: OpenStack) -> None:
    image_id = openstack.create_image(DATA)
    openstack.stored_file(image_id).unlink()
    with opened(backend_for(openstack), ref_of(image_id), of(openstack, "red")) as source:
        with pytest.raises(NotReady):
            next(source.read())
        with pytest.raises((BackendError, TransferError)):
            next(source.read(1000))


def test_a_stored_file_that_is_too_short_is_an_error(
    openstack: OpenStack, broker: imagebroker.Broker, tmp_path: Path
) -> None:
    image_id = openstack.create_image(DATA)
    os.truncate(openstack.stored_file(image_id), len(DATA) - 7)
    with pytest.raises(TransferError):
        broker.download(None, image_id, tmp_path / "image", retries=1)
    assert_that(list(tmp_path.iterdir()), HasLength(1))  # the config file


def test_a_flipped_bit_is_found(
    openstack: OpenStack, broker: imagebroker.Broker, tmp_path: Path
) -> None:
    image_id = openstack.create_image(DATA)
    with openstack.stored_file(image_id).open("r+b") as file:
        file.seek(len(DATA) // 2)
        file.write(bytes([DATA[len(DATA) // 2] ^ 1]))
    with pytest.raises(VerificationError):
        broker.download(None, image_id, tmp_path / "image")
    assert_that((tmp_path / "image").exists(), Is(False))


def test_the_middle_of_an_image_is_read(openstack: OpenStack, stored: str) -> None:
    with opened(backend_for(openstack), ref_of(stored), of(openstack, "red")) as source:
        for start, stop in ((0, None), (1, None), (1000, 1001), (len(DATA) - 1, None), (0, 5)):
            assert_that(b"".join(source.read(start, stop)) == DATA[start:stop], Is(True))
        assert_that(source.seekable, Is(True))


def test_a_store_without_ranges_is_noticed(openstack: OpenStack) -> None:
    """The read-only http store answers 400 to ranges."""
    image_id = openstack.create_image(None)
    with served(DATA) as url:
        endpoint = openstack.locations_endpoint()
        proof = {"os_hash_algo": "sha512", "os_hash_value": hashlib.sha512(DATA).hexdigest()}
        openstack.call(
            "red",
            "PATCH",
            f"{endpoint}/v2/images/{image_id}",
            [
                {
                    "op": "add",
                    "path": "/locations/-",
                    "value": {"url": url, "metadata": {}, "validation_data": proof},
                }
            ],
        )
        backend = backend_for(openstack, endpoint=[endpoint + "/"])
        with opened(backend, ref_of(image_id), of(openstack, "red")) as source:
            assert_that(source.seekable, Is(True))
            with pytest.raises(RangeIgnored):
                next(source.read(1000))
            assert_that(source.seekable, Is(False))
            assert_that(b"".join(source.read()) == DATA, Is(True))


def served(data: bytes) -> _Served:
    return _Served(data)


class _Served:
    """Serves bytes at a URL, without ranges."""

    def __init__(self, data: bytes) -> None:
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data)

            do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> str:
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}/image"

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


# -- broken connections ----------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_costs_the_missing_bytes_only(
    openstack: OpenStack, make_broker: MakeBroker, stored: str, tmp_path: Path, proxy: TcpProxy,
    reset: bool,
) -> None:  # fmt: skip
    proxy.fault_for = {
        0: Fault(cut_after=1_000_000, reset=reset),
        1: Fault(cut_after=1_000_000, reset=reset),
    }
    broker = make_broker(config(openstack, "red", url_of(proxy)))
    broker.download(None, stored, tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes() == DATA, Is(True))
    assert_that(proxy.received, LessThan(len(DATA) + 1_000_000))


def test_the_third_of_three_servers_ends_what_the_second_began(
    openstack: OpenStack, make_broker: MakeBroker, stored: str, tmp_path: Path
) -> None:
    with (
        proxied(openstack, Fault(refuse=True)) as dead,
        proxied(openstack, Fault(cut_after=len(DATA) // 2)) as dying,
        proxied(openstack) as good,
    ):
        for number in range(4):  # whatever the shuffled order
            broker = make_broker(config(openstack, "red", *map(url_of, (dead, dying, good))))
            broker.download(None, stored, tmp_path / f"image-{number}")
            assert_that((tmp_path / f"image-{number}").read_bytes() == DATA, Is(True))


def test_a_server_that_answers_nothing_is_given_up(
    openstack: OpenStack, make_broker: MakeBroker, stored: str, tmp_path: Path, proxy: TcpProxy
) -> None:
    proxy.fault = Fault(stall_after=0)
    core = "stall_timeout = 0.5\nretries = 1"
    broker = make_broker(config(openstack, "red", url_of(proxy), core=core))
    with pytest.raises(TransferError):
        broker.download(None, stored, tmp_path / "image")
    assert_that((tmp_path / "image").exists(), Is(False))


# -- records ---------------------------------------------------------------------------------------


def test_images_are_listed_page_by_page_and_filtered(openstack: OpenStack) -> None:
    tag = uuid.uuid4().hex
    odd = f'a&b=c#d,e:f;g "h" ä {tag}'
    made = [openstack.create_image(b"x", name=f"{n}", tags=[tag], n=str(n)) for n in range(5)]
    queued = openstack.create_image(None, name=odd, tags=[tag])
    hidden = openstack.create_image(b"x", tags=[tag], os_hidden=True)
    backend = backend_for(openstack)

    def listed(filters: dict[str, object], **how: object) -> list[str | None]:
        query = ImageQuery(filters={"tag": tag, **filters}, sort_key="id", sort_dir="asc", **how)
        return [image.id for image in backend.get_all(None, query)]

    assert_that(listed({}, page_size=2), Equals(sorted(made)))
    assert_that(listed({}, limit=3, page_size=2), Equals(sorted(made)[:3]))
    assert_that(listed({}, marker=sorted(made)[2]), Equals(sorted(made)[3:]))
    assert_that(listed({"property-n": "3"}), Equals([made[3]]))
    assert_that(listed({"name": "3"}), Equals([made[3]]))
    assert_that(listed({"id": made[:2]}), Equals(sorted(made[:2])))
    assert_that(listed({"status": "queued", "name": odd}), Equals([queued]))
    assert_that(listed({"status": ["queued", "active"]}), HasLength(6))
    assert_that(listed({"hidden": True}), Equals([hidden]))
    assert_that(listed({"changes-since": "2100-01-01T00:00:00Z"}), Equals([]))
    assert_that(listed({"size_min": 2}), Equals([]))
    with pytest.raises(InvalidImageRef):
        listed({}, marker=str(uuid.uuid4()))
    with pytest.raises(InvalidImageRef):
        list(backend.get_all(None, ImageQuery(sort_key="colour")))


def test_an_image_is_created_with_its_data(
    openstack: OpenStack, broker: imagebroker.Broker, tmp_path: Path
) -> None:
    chosen = str(uuid.uuid4())
    image = broker.create(
        None,
        {"id": chosen, "name": "made", "disk_format": "raw", "tags": ["t"], "protected": True,
         "visibility": "private", "min_disk": 1, "properties": {"os_type": "linux", "list": [1]}},
        DATA,
    )  # fmt: skip
    assert_that(image, MatchesStructure.byEquality(
        id=chosen, ref=f"glance:{chosen}", status="active", size=len(DATA), protected=True,
        container_format="bare", visibility="private", min_disk=1, tags=("t",)))  # fmt: skip
    assert_that(dict(image.properties), Equals({"os_type": "linux", "list": "[1]"}))
    broker.download(None, chosen, tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes() == DATA, Is(True))
    with pytest.raises(PolicyViolation):
        broker.delete(None, chosen)
    with pytest.raises(Conflict):
        broker.create(None, {"id": chosen, "disk_format": "raw"}, DATA)
    broker.update(None, chosen, {"protected": False})
    broker.delete(None, chosen)
    with pytest.raises(Conflict):  # Glance uses no id twice
        broker.create(None, {"id": chosen, "disk_format": "raw"}, DATA)


@pytest.mark.parametrize("source", ["bytes", "path", "iterator", "empty", "nothing"])
def test_data_comes_in_many_forms(
    openstack: OpenStack, broker: imagebroker.Broker, tmp_path: Path, source: str
) -> None:
    (tmp_path / "data").write_bytes(DATA)
    data = {
        "bytes": DATA,
        "path": tmp_path / "data",
        "empty": b"",
        "nothing": None,
        "iterator": (DATA[at : at + 70_000] for at in range(0, len(DATA), 70_000)),
    }[source]
    size = {} if source not in ("empty", "nothing") else {"size": 0}
    image = broker.create(None, {"name": source, "disk_format": "raw", **size}, data)
    assert_that(image.status, Equals("active"))
    assert_that(image.size, Equals(0 if size else len(DATA)))


def test_a_record_may_wait_for_its_data(openstack: OpenStack, broker: imagebroker.Broker) -> None:
    image = broker.create(None, {"name": "later"})
    assert_that(image.status, Equals("queued"))
    image = broker.update(None, image.ref, {"disk_format": "raw", "container_format": "bare"}, DATA)
    assert_that(image.size, Equals(len(DATA)))
    with pytest.raises(Conflict):
        broker.update(None, image.ref, {}, DATA)


def test_data_that_is_not_what_it_says_is_refused_and_nothing_is_left(
    openstack: OpenStack, qemu_img: None, tmp_path: Path
) -> None:
    backend, name = backend_for(openstack), uuid.uuid4().hex
    path = make_qcow2(tmp_path / "image.qcow2", 1 << 20)
    image = Image(ref="", name=name, disk_format="vmdk")
    with pytest.raises(FormatError):
        backend.create(None, image, ImageData(path.read_bytes()))
    everything = ImageQuery(filters={"name": name, "status": ["queued", "active", "saving"]})
    assert_that(list(backend.get_all(None, everything)), Equals([]))


def test_an_upload_that_breaks_is_repeated_where_that_is_possible(
    openstack: OpenStack, proxy: TcpProxy
) -> None:
    backend = backend_for(openstack, endpoint=[url_of(proxy)])
    image = Image(ref="", name=uuid.uuid4().hex, disk_format="raw")
    proxy.fault_for = {1: Fault(cut_after=1_000_000, upload=True)}
    made = backend.create(None, image, ImageData(DATA))
    assert_that(made.checksums["sha512"], Equals(hashlib.sha512(DATA).hexdigest()))

    proxy.fault_for = {proxy.connections + 1: Fault(cut_after=1_000_000, upload=True)}
    unknown = Image(ref="", name=uuid.uuid4().hex, disk_format="raw")
    with pytest.raises(UploadFailed) as caught:
        backend.create(None, unknown, ImageData(iter([DATA])))
    assert_that(caught.value.image_id, Is(None))
    everything = ImageQuery(filters={"name": str(unknown.name), "status": ["queued", "active"]})
    assert_that(list(backend.get_all(None, everything)), Equals([]))


def test_fields_properties_and_members_are_changed(
    openstack: OpenStack, broker: imagebroker.Broker
) -> None:
    made = broker.create(
        None, {"name": "old", "disk_format": "raw", "members": [openstack.project_ids["blue"]],
               "properties": {"keep": "1", "drop": "1", "odd/na~me": "1"}}, DATA
    )  # fmt: skip
    assert_that(made.members, Equals((openstack.project_ids["blue"],)))
    assert_that(broker.get(of(openstack, "blue"), made.ref).id, Equals(made.id))
    changed = broker.update(
        None, made.ref,
        {"name": None, "tags": ["a"], "hidden": True, "members": [], "min_ram": 7,
         "properties": {"drop": None, "new": "2", "odd/na~me": "3"}},
    )  # fmt: skip
    assert_that(
        changed,
        MatchesStructure.byEquality(
            name=None, tags=("a",), hidden=True, members=(), min_ram=7, size=len(DATA)
        ),
    )
    assert_that(dict(changed.properties), Equals({"keep": "1", "new": "2", "odd/na~me": "3"}))
    with pytest.raises(ImageNotFound):
        broker.get(of(openstack, "blue"), made.ref)
    purged = broker.update(None, made.ref, {"properties": {"keep": "1"}}, purge_props=True)
    assert_that(dict(purged.properties), Equals({"keep": "1"}))


def test_what_belongs_to_others_cannot_be_changed(
    openstack: OpenStack, broker: imagebroker.Broker
) -> None:
    public = openstack.create_image(DATA, user="admin", visibility="public")
    blue = of(openstack, "blue")
    for call in (
        lambda: broker.delete(blue, public),
        lambda: broker.update(blue, public, {"name": "mine"}),
        lambda: broker.create(blue, {"name": "x", "visibility": "public"}),
    ):
        with pytest.raises(NotAuthorized):
            call()


@pytest.mark.promise("glance-alone")
def test_a_location_is_registered_instead_of_data(openstack: OpenStack) -> None:
    backend = backend_for(openstack, endpoint=[openstack.locations_endpoint() + "/"])
    with served(DATA) as url:
        image = Image(
            ref="",
            name="elsewhere",
            disk_format="raw",
            locations=(url,),
            checksums={"sha512": hashlib.sha512(DATA).hexdigest()},
        )  # type: ignore[arg-type]
        made = backend.create(None, image, None)
        found = backend.get(None, ref_of(str(made.id)), include_locations=True)
        assert_that([each.url for each in found.locations or ()], Equals([url]))
        assert_that(found.status, Equals("active"))
