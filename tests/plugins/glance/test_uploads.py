"""Uploads into the real Glance that are cut, slow, or outlive their token: all or nothing."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.parse import urlsplit

import pytest
from imagebroker_glance import GlanceBackend
from oslo_context.context import RequestContext
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is, MatchesStructure

from imagebroker.plugin import (
    Image,
    ImageData,
    ImageQuery,
    NotAuthorized,
    TransferError,
    UploadFailed,
)
from tests.plugins.glance_stub import make_backend
from tests.servers.fixtures import require
from tests.servers.openstack import OpenStack, missing
from tests.servers.openstack_prepared import open_database
from tests.servers.tcp import Fault, TcpProxy

BLOCK = 64 * 1024
#: Which connection of a create brings the data; the first makes the record.
DATA_CONNECTION = 1
KINDS = ("rewindable", "size known", "size unknown")


def proxied(openstack: OpenStack, fault: Fault, connection: int = DATA_CONNECTION) -> TcpProxy:
    target = urlsplit(openstack.endpoint)
    return TcpProxy(str(target.hostname), int(target.port or 0), fault, only=connection)


def backend_behind(proxy: TcpProxy, **options: object) -> GlanceBackend:
    return make_backend(endpoint=[f"http://{proxy.host}:{proxy.port}/"], **options)


@pytest.fixture(scope="module")
def red(openstack: OpenStack) -> RequestContext:
    """With a token that Glance has seen, so that connections can be counted."""
    context = RequestContext(auth_token=openstack.token("red"))
    with closing(make_backend(endpoint=[openstack.endpoint + "/"])) as backend:
        list(backend.get_all(context, ImageQuery(limit=1)))
    return context


def source(data: bytes, kind: str) -> ImageData:
    if kind == "rewindable":
        return ImageData(data)
    chunks = (data[at : at + BLOCK] for at in range(0, len(data), BLOCK))
    return ImageData(chunks, len(data) if kind == "size known" else None)


def stored(openstack: OpenStack, name: str) -> list[tuple[str, int | None, bool]]:
    """Status, size, and whether it ever was active, of all images of a name, deleted ones too."""
    statement = "SELECT status, size, os_hash_value IS NOT NULL FROM images WHERE name = ?"
    with open_database(openstack.directory / "glance" / "glance.db") as database:
        return [(a, b, bool(c)) for a, b, c in database.execute(statement, [name])]


def cut(
    openstack: OpenStack, red: RequestContext, data: bytes, kind: str, blocks: int,
    *, reset: bool = False,
) -> str:  # fmt: skip
    """How a create ends whose data is cut after so many blocks; nothing else may be there."""
    name = uuid.uuid4().hex
    image = Image(ref="", name=name, disk_format="raw")
    head = 500 + blocks * (9 if kind == "size unknown" else 0)  # frames of chunks
    fault = Fault(cut_after=head + blocks * BLOCK, reset=reset, upload=True)
    with proxied(openstack, fault) as proxy, closing(backend_behind(proxy)) as backend:
        try:
            made = backend.create(red, image, source(data, kind))
        except UploadFailed as error:
            assert_that(error.image_id, Is(None))
            left = [each for each in stored(openstack, name) if each[0] != "deleted"]
            assert_that(left, Equals([]))
            ended = "removed"
        else:
            assert_that(made.checksums["sha512"], Equals(hashlib.sha512(data).hexdigest()))
            assert_that(made.tags, Equals(()))
            ended = "stored"
        activated = [size for _, size, active in stored(openstack, name) if active]
        assert_that(activated, Equals([len(data)] if activated else []))
        return ended


@pytest.mark.parametrize("kind", KINDS)
def test_an_upload_cut_at_a_block_is_whole_or_gone(
    openstack: OpenStack, red: RequestContext, kind: str
) -> None:
    data = os.urandom(6 * BLOCK)
    places = [(blocks, reset) for blocks in (0, 1, 5) for reset in (False, True)]
    with ThreadPoolExecutor(6) as threads:
        ends = list(
            threads.map(lambda p: cut(openstack, red, data, kind, p[0], reset=p[1]), places)
        )
    assert_that(set(ends), Equals({"stored" if kind == "rewindable" else "removed"}))


@pytest.mark.skipif(
    os.environ.get("IMAGEBROKER_SLOW_TESTS") != "1", reason="slow: set IMAGEBROKER_SLOW_TESTS=1"
)
@pytest.mark.parametrize("kind", KINDS)
def test_an_upload_cut_at_any_block_of_8_mib_is_whole_or_gone(
    openstack: OpenStack, red: RequestContext, kind: str
) -> None:
    data = os.urandom(128 * BLOCK)
    with ThreadPoolExecutor(8) as threads:
        ends = list(threads.map(lambda blocks: cut(openstack, red, data, kind, blocks), range(128)))
    print(f"{kind}: {len(ends)} cuts, {ends.count('stored')} stored, {ends.count('removed')} gone")
    assert_that(set(ends), Equals({"stored" if kind == "rewindable" else "removed"}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_whose_answer_is_lost_is_taken_for_ours(
    openstack: OpenStack, red: RequestContext, kind: str
) -> None:
    data, name = os.urandom(3 * BLOCK), uuid.uuid4().hex
    image = Image(ref="", name=name, disk_format="raw")
    fault = Fault(cut_after=1)
    with (
        proxied(openstack, fault, connection=0) as proxy,
        closing(backend_behind(proxy)) as backend,
    ):
        made = backend.create(red, image, source(data, kind))
    assert_that(made, MatchesStructure.byEquality(status="active", size=len(data)))
    assert_that(stored(openstack, name), Equals([("active", len(data), True)]))


@pytest.mark.parametrize("kind", KINDS)
def test_data_whose_answer_is_lost_is_whole_or_gone(
    openstack: OpenStack, red: RequestContext, kind: str
) -> None:
    data, name = os.urandom(3 * BLOCK), uuid.uuid4().hex
    image = Image(ref="", name=name, disk_format="raw")
    with (
        proxied(openstack, Fault(cut_after=1)) as proxy,
        closing(backend_behind(proxy)) as backend,
    ):
        try:
            backend.create(red, image, source(data, kind))
        except UploadFailed as error:  # Glance had not yet begun to look at what it got
            assert_that(error.image_id, Is(None))
            assert_that([each[0] for each in stored(openstack, name)], Equals(["deleted"]))
        else:
            assert_that(stored(openstack, name), Equals([("active", len(data), True)]))


@pytest.mark.parametrize("fault", [{"rate": 20_000.0}, {"stall_after": 200_000}])
def test_a_server_that_accepts_too_slowly_ends_the_upload(
    openstack: OpenStack, red: RequestContext, fault: dict[str, float]
) -> None:
    name, data = uuid.uuid4().hex, bytes(24 * 1024 * 1024)
    with (
        proxied(openstack, Fault(upload=True, **fault)) as proxy,  # type: ignore[arg-type]
        closing(backend_behind(proxy, stall=2)) as backend,
        pytest.raises(TransferError),
    ):
        backend.create(red, Image(ref="", name=name, disk_format="raw"), ImageData(iter([data])))
    assert_that([s for s in stored(openstack, name) if s[0] != "deleted"], Equals([]))


# -- tokens that expire ----------------------------------------------------------------------------

SECONDS = 8


@pytest.fixture(scope="module")
def forgetful() -> Iterator[OpenStack]:
    """One whose tokens live for a few seconds."""
    require(missing())
    with OpenStack(token_seconds=SECONDS) as servers:
        yield servers


def slowly(data: bytes) -> Iterator[bytes]:
    """Longer than a token lives."""
    yield data[:BLOCK]
    time.sleep(SECONDS + 2)
    yield data[BLOCK:]


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_an_upload_that_outlives_its_token_is_finished_beside_the_services(
    forgetful: OpenStack, ends: str
) -> None:
    """By the caller still: the service's token only vouches for one that was good at the start."""
    name, data = uuid.uuid4().hex, os.urandom(3 * BLOCK)
    context = RequestContext(auth_token=forgetful.token("red"))
    backend = make_backend(
        endpoint=[forgetful.endpoint + "/"], **forgetful.auth_options("service")
    )  # fmt: skip
    image = Image(ref="", name=name, disk_format="raw")
    with closing(backend):
        if ends == "well":
            made = backend.create(context, image, ImageData(slowly(data)))
            assert_that(made.owner, Equals(forgetful.project_ids["red"]))
            assert_that(stored(forgetful, name), Equals([("active", len(data), True)]))
        else:
            with pytest.raises(UploadFailed) as caught:
                backend.create(context, image, ImageData(slowly(data), len(data) + 1))
            assert_that(caught.value.image_id, Is(None))
            assert_that(stored(forgetful, name), Equals([("deleted", None, False)]))
        with pytest.raises(NotAuthorized):  # for nothing that begins afterwards
            backend.create(context, image, ImageData(data))


def test_without_a_service_to_vouch_the_error_says_which_record_is_left(
    forgetful: OpenStack,
) -> None:
    name, data = uuid.uuid4().hex, os.urandom(3 * BLOCK)
    context = RequestContext(auth_token=forgetful.token("red"))
    backend = make_backend(endpoint=[forgetful.endpoint + "/"])
    with closing(backend), pytest.raises(UploadFailed) as caught:
        image = Image(ref="", name=name, disk_format="raw")
        backend.create(context, image, ImageData(slowly(data)))
    left = forgetful.call("red", "GET", f"/images/{caught.value.image_id}")
    assert_that((left["name"], left["size"]), Equals((name, len(data))))


def test_the_services_own_upload_gets_a_new_token(forgetful: OpenStack) -> None:
    name, data = uuid.uuid4().hex, os.urandom(3 * BLOCK)
    backend = make_backend(endpoint=[forgetful.endpoint + "/"], **forgetful.auth_options("red"))
    with closing(backend):
        image = Image(ref="", name=name, disk_format="raw")
        assert_that(backend.create(None, image, ImageData(slowly(data))).size, Equals(len(data)))
