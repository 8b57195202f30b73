"""The cache of a rack, as etc/nginx configures it: real nginx in front of a real service."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import os
import random
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, HasLength, LessThan

import imagebroker
from imagebroker.config.tuning import Tuning
from imagebroker.exceptions import ImageNotFound
from tests.servers import nginx as nginx_server
from tests.servers.fixtures import require
from tests.servers.nginx import Nginx
from tests.servers.openstack import OpenStack
from tests.servers.rack_cache import OF_A_WEB_SERVER, RackCache

MIB = 1 << 20
SLICE = 4 * MIB
DATA = random.Random(17).randbytes(4 * SLICE + 12345)
OTHER = random.Random(18).randbytes(len(DATA))
_numbers = itertools.count()


@pytest.fixture(scope="module")
def cache(nginx: Nginx) -> Iterator[RackCache]:
    """In front of a web server with https and passwords."""
    port = nginx.ports["good"]
    with RackCache(port, service_ca=nginx.ca_file, images=OF_A_WEB_SERVER) as server:
        yield server


@pytest.fixture
def image(nginx: Nginx) -> Iterator[str]:
    """The path of an image that needs a password, and is on nobody's disk yet."""
    name = f"rack-{next(_numbers)}.raw"
    (nginx.root / name).write_bytes(DATA)
    yield f"/private/{name}"
    (nginx.root / name).unlink()


def replace(nginx: Nginx, path: str, data: bytes) -> None:
    """Other bytes, another ETag."""
    file = nginx.root / Path(path).name
    file.write_bytes(data)
    os.utime(file, (1_700_000_000 + next(_numbers),) * 2)


def get(
    cache: RackCache, path: str, authorization: str | None, **fields: str
) -> tuple[http.client.HTTPResponse, bytes]:
    """Ask the cache. Words of names have an underscore: `if_range`."""
    context = ssl.create_default_context(cafile=str(cache.ca_file))
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    if authorization is not None:
        headers["Authorization"] = authorization
    connection = http.client.HTTPSConnection("127.0.0.1", cache.port, context=context, timeout=60)
    with closing(connection):
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer, answer.read()


def sent(nginx: Nginx, path: str) -> list[int]:
    """What the service sent of an image, request by request."""
    return [each.sent for each in nginx.requests(f" {path} ")]


def test_the_second_host_costs_the_service_one_byte(
    cache: RackCache, nginx: Nginx, image: str
) -> None:
    assert_that(get(cache, image, nginx.authorization)[1] == DATA, Equals(True))
    before = len(nginx.requests(f" {image} ", at_least=6))
    assert_that(sum(sent(nginx, image)), LessThan(len(DATA) + 10))
    assert_that(get(cache, image, nginx.authorization)[1] == DATA, Equals(True))
    nginx.requests(f" {image} ", at_least=before + 1)
    assert_that(sent(nginx, image)[before:], Equals([1]))


@pytest.mark.parametrize("authorization", [None, "Basic dGVzdGVyOndyb25n"])
def test_who_may_not_read_an_image_gets_no_byte_that_is_in_the_cache(
    cache: RackCache, nginx: Nginx, image: str, authorization: str | None
) -> None:
    get(cache, image, nginx.authorization)
    for fields in ({}, {"range": f"bytes={SLICE}-{SLICE + 99}"}):
        answer, body = get(cache, image, authorization, **fields)
        assert_that(answer.status, Equals(401))
        assert_that(body[:100] in DATA, Equals(False))
    # Nor does he get past the question by what he claims.
    etag = str(get(cache, image, nginx.authorization, range="bytes=0-0")[0].getheader("ETag"))
    answer, _ = get(cache, image, authorization, x_image_version=etag, if_none_match=etag)
    assert_that(answer.status, Equals(401))


def test_the_middle_costs_the_slices_that_cover_it(
    cache: RackCache, nginx: Nginx, image: str
) -> None:
    etag = str(get(cache, image, nginx.authorization, range="bytes=0-0")[0].getheader("ETag"))
    before = len(nginx.requests(f" {image} ", at_least=2))
    start = 3 * SLICE + 7
    answer, body = get(
        cache, image, nginx.authorization, range=f"bytes={start}-{start + 99}", if_range=etag
    )
    assert_that(answer.status, Equals(206))
    assert_that(
        answer.getheader("Content-Range"), Equals(f"bytes {start}-{start + 99}/{len(DATA)}")
    )
    assert_that(body == DATA[start : start + 100], Equals(True))
    nginx.requests(f" {image} ", at_least=before + 2)
    assert_that(sorted(sent(nginx, image)[before:]), Equals([1, SLICE]))


def test_the_middle_of_another_version_is_all_of_this_one(
    cache: RackCache, nginx: Nginx, image: str
) -> None:
    etag = str(get(cache, image, nginx.authorization, range="bytes=0-0")[0].getheader("ETag"))
    replace(nginx, image, OTHER)
    answer, body = get(
        cache, image, nginx.authorization, range=f"bytes={SLICE}-{SLICE + 99}", if_range=etag
    )
    assert_that(answer.status, Equals(200))
    assert_that(body == OTHER, Equals(True))


def test_slices_of_two_versions_are_never_mixed(cache: RackCache, nginx: Nginx, image: str) -> None:
    get(cache, image, nginx.authorization, range="bytes=0-0")
    get(cache, image, nginx.authorization, range=f"bytes={2 * SLICE}-{2 * SLICE}")
    replace(nginx, image, OTHER)
    assert_that(get(cache, image, nginx.authorization)[1] == OTHER, Equals(True))
    replace(nginx, image, DATA)
    assert_that(get(cache, image, nginx.authorization)[1] == DATA, Equals(True))


def test_without_a_version_nothing_is_kept(cache: RackCache, nginx: Nginx, image: str) -> None:
    path = image.replace("/private/", "/noetag/")
    before = len(cache.slices)
    for _ in range(2):
        assert_that(get(cache, path, None)[1] == DATA, Equals(True))
    assert_that(cache.slices, HasLength(before))


def test_what_the_service_says_otherwise_is_what_the_caller_hears(
    cache: RackCache, nginx: Nginx, image: str
) -> None:
    assert_that(get(cache, "/no-such.raw", None)[0].status, Equals(404))
    (nginx.root / "empty.raw").write_bytes(b"")
    answer, body = get(cache, "/empty.raw", None)
    assert_that((answer.status, body), Equals((200, b"")))
    answer, _ = get(cache, f"/redirect/302{image}", None)
    assert_that(answer.status, Equals(302))
    assert_that(str(answer.getheader("Location")).endswith(image), Equals(True))


def test_a_service_with_another_certificate_is_not_believed(image: str, nginx: Nginx) -> None:
    with RackCache(
        nginx.ports["self-signed"], service_ca=nginx.ca_file, images=OF_A_WEB_SERVER
    ) as wrong:
        assert_that(get(wrong, image, nginx.authorization)[0].status, Equals(502))
    assert_that(sent(nginx, image), Equals([]))


@pytest.mark.parametrize("tuning", [Tuning(parallel_from=MIB, observe=0.01)], indirect=True)
def test_parallel_reads_go_through_it(
    cache: RackCache,
    nginx: Nginx,
    image: str,
    make_broker: Callable[..., imagebroker.Broker],
    tmp_path: Path,
) -> None:
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = https\n[backend:http]\n"
        f"allowed_networks = 127.0.0.0/8\nca_file = {cache.ca_file}\nendpoint = {cache.url}\n"
        f"username = {nginx.user}\npassword = {nginx.password}\n"
    )
    for number in range(2):
        broker.download(None, f"{cache.url}{image}", tmp_path / str(number))
        found = (tmp_path / str(number)).read_bytes()
        assert_that(found == DATA, Equals(True))
    assert_that(sum(sent(nginx, image)), LessThan(len(DATA) + SLICE))


# -- Glance ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def before_glance(openstack: OpenStack) -> Iterator[RackCache]:
    require(nginx_server.missing())
    with RackCache(int(openstack.endpoint.rpartition(":")[2]), service_ca=None) as server:
        yield server


def through(cache: RackCache, openstack: OpenStack, user: str) -> str:
    options = "".join(f"{k} = {v}\n" for k, v in openstack.auth_options(user).items())
    return (
        "[imagebroker]\nenabled_schemes = glance\ndefault_backend = glance\n[backend:glance]\n"
        f"endpoint = {cache.url}/\ncafile = {cache.ca_file}\n{options}"
    )


def test_a_tenant_gets_from_the_cache_what_glance_lets_it_read(
    before_glance: RackCache,
    openstack: OpenStack,
    make_broker: Callable[..., imagebroker.Broker],
    tmp_path: Path,
) -> None:
    image_id = openstack.create_image(DATA, user="red")
    red = make_broker(through(before_glance, openstack, "red"))
    blue = make_broker(through(before_glance, openstack, "blue"))
    red.download(None, image_id, tmp_path / "red")
    slices = len(before_glance.slices)
    # What Glance stores is gone: only the cache has it now.
    stored = openstack.stored_file(image_id)
    stored.write_bytes(b"\0" * stored.stat().st_size)
    done = red.download(None, image_id, tmp_path / "again")
    assert_that(hashlib.sha256((tmp_path / "again").read_bytes()).hexdigest(),
                Equals(hashlib.sha256(DATA).hexdigest()))  # fmt: skip
    assert_that(done.via, Equals("backend"))
    assert_that(before_glance.slices, HasLength(slices))
    with pytest.raises(ImageNotFound):
        blue.download(None, image_id, tmp_path / "blue")
    token = openstack.token("blue")
    answer, body = get(before_glance, f"/v2/images/{image_id}/file", None, x_auth_token=token)
    assert_that(answer.status, Equals(404))
    assert_that(body[:100] in DATA, Equals(False))
    assert_that(get(before_glance, f"/v2/images/{image_id}/file", None)[0].status, Equals(401))


def test_an_image_that_is_deactivated_or_deleted_is_not_served_any_more(
    before_glance: RackCache, openstack: OpenStack
) -> None:
    image_id = openstack.create_image(DATA[:SLICE], user="red")
    path, token = f"/v2/images/{image_id}/file", openstack.token("red")
    assert_that(get(before_glance, path, None, x_auth_token=token)[1] == DATA[:SLICE], Equals(True))
    openstack.call("admin", "POST", f"/images/{image_id}/actions/deactivate")
    assert_that(get(before_glance, path, None, x_auth_token=token)[0].status, Equals(403))
    openstack.call("admin", "POST", f"/images/{image_id}/actions/reactivate")
    openstack.call("red", "DELETE", f"/images/{image_id}")
    assert_that(get(before_glance, path, None, x_auth_token=token)[0].status, Equals(404))


def test_records_lists_and_uploads_pass_as_without_it(
    before_glance: RackCache,
    openstack: OpenStack,
    make_broker: Callable[..., imagebroker.Broker],
) -> None:
    broker = make_broker(through(before_glance, openstack, "red"))
    info = {"name": f"rack {next(_numbers)}", "disk_format": "raw", "container_format": "bare"}
    made = broker.create(None, info, DATA[:MIB])
    assert_that(broker.get(None, str(made.id)).size, Equals(MIB))
    names = [each.name for each in broker.get_all(None, filters={"name": info["name"]})]
    assert_that(names, Equals([info["name"]]))
    broker.delete(None, str(made.id))
    with pytest.raises(ImageNotFound):
        broker.get(None, str(made.id), show_deleted=False)
