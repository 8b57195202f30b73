"""Where an answer ends: what a digest may decide, and what it may not."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan, HasLength, Is

import imagebroker
from imagebroker.exceptions import (
    ChecksumMismatch,
    PolicyViolation,
    TransferError,
    UnconfirmedEnd,
)
from tests.plugins.http_peers import answer, chunked, opened, server_context, serving
from tests.servers.nginx import Nginx
from tests.servers.raw import Connection, RawServer
from tests.verify.ways import WAYS, Way

DATA = bytes(range(256)) * 4000
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    made: Way = request.param(tmp_path)
    return made


@pytest.fixture
def broker(nginx: Nginx, make_broker: Callable[..., imagebroker.Broker]) -> imagebroker.Broker:
    return make_broker(
        "[imagebroker]\nenabled_schemes = http, https\nretry_backoff = 0\nretries = 1\n"
        f"[backend:http]\nallowed_networks = 127.0.0.0/8\nca_file = {nginx.ca_file}\n"
    )


@pytest.fixture
def ragged(nginx: Nginx) -> Callable[[bytes], RawServer]:
    """A TLS server that closes the connection after its answer and says nothing of it."""

    def make(reply: bytes) -> RawServer:
        def script(connection: Connection, index: int) -> None:
            connection.read_head()
            connection.sendall(reply)
            # Only TCP ends: `unwrap` would say so in TLS too.
            socket.socket.shutdown(connection, socket.SHUT_WR)
            connection.settimeout(5)
            while socket.socket.recv(connection, 65536):
                pass
            connection.close()

        return RawServer(script, tls=server_context(nginx.ca_file.parent))

    return make


ENDLESS = answer(DATA, 'ETag: "1"', length=False)
HTTP_1_0 = answer(DATA, length=False, version="1.0")


@pytest.mark.promise("C16", "web-server-liberties")
@pytest.mark.parametrize("reply", [ENDLESS, HTTP_1_0], ids=["HTTP/1.1", "HTTP/1.0"])
def test_where_a_digest_holds_tls_may_end_without_notice(
    reply: bytes, ragged: Callable[[bytes], RawServer], broker: imagebroker.Broker, way: Way
) -> None:
    with ragged(reply) as server:
        data, evidence = way.get(broker, f"{server.url}/x", checksum=SHA256)
        assert_that(server.connections, HasLength(1))
    assert_that(data == DATA, Is(True))
    assert_that(f"sha256:{evidence['sha256']}", Equals(SHA256))


def test_where_none_holds_it_may_not(
    ragged: Callable[[bytes], RawServer], broker: imagebroker.Broker, way: Way
) -> None:
    with ragged(ENDLESS[:-1]) as server:
        with pytest.raises(ChecksumMismatch):
            way.get(broker, f"{server.url}/x", checksum=SHA256)
    way.assert_nothing_came(len(DATA))


@pytest.mark.promise("web-server-liberties")
@pytest.mark.parametrize("allowed", [False, True])
def test_without_a_digest_it_may_not_either(
    allowed: bool, ragged: Callable[[bytes], RawServer], broker: imagebroker.Broker, way: Way
) -> None:
    wanted: dict[str, Any] = {"allow_unknown_size": True} if allowed else {}
    error = UnconfirmedEnd if allowed else PolicyViolation
    with ragged(ENDLESS) as server:
        with pytest.raises(error) as caught:
            way.get(broker, f"{server.url}/x", **wanted)
    assert_that(caught.value.hint, Contains("checksum"))
    way.assert_nothing_came(len(DATA))


@pytest.mark.promise("web-server-liberties")
@pytest.mark.parametrize(
    "reply",
    [answer(DATA)[:-1000], chunked(DATA, DATA)[:-1000], chunked(DATA)[:-5], chunked(DATA)[:-2]],
    ids=["counted", "within a chunk", "before the last chunk", "before the last line"],
)
def test_within_what_was_announced_it_is_a_cut_whatever_the_digest(
    reply: bytes, ragged: Callable[[bytes], RawServer], broker: imagebroker.Broker, way: Way
) -> None:
    with ragged(reply) as server:
        with pytest.raises(TransferError) as caught:
            way.get(broker, f"{server.url}/x", checksum=SHA256)
        assert_that(len(server.connections), GreaterThan(1))
    assert not isinstance(caught.value, UnconfirmedEnd)
    way.assert_nothing_came(2 * len(DATA))


def test_after_the_announced_length_nobody_looks_how_tls_ends(
    ragged: Callable[[bytes], RawServer], broker: imagebroker.Broker, way: Way
) -> None:
    with ragged(answer(DATA)) as server:
        assert_that(way.get(broker, f"{server.url}/x")[0] == DATA, Is(True))


@pytest.mark.parametrize("reply", [ENDLESS, HTTP_1_0, chunked(DATA)])
def test_a_size_that_nobody_knows_needs_a_digest(
    reply: bytes, broker: imagebroker.Broker, way: Way
) -> None:
    with serving(reply) as server:
        with pytest.raises(PolicyViolation):
            way.get(broker, f"{server.url}/x")
        assert_that(way.get(broker, f"{server.url}/x", checksum=SHA256)[0] == DATA, Is(True))


def test_a_source_says_that_only_a_digest_can_tell(
    ragged: Callable[[bytes], RawServer], nginx: Nginx
) -> None:
    from tests.plugins.http_peers import make_backend

    arrived = bytearray()
    with (
        ragged(ENDLESS) as server,
        opened(f"{server.url}/x", make_backend(ca_file=str(nginx.ca_file))) as source,
        pytest.raises(UnconfirmedEnd),
    ):
        for chunk in source.read():
            arrived += chunk
    assert_that(bytes(arrived) == DATA, Is(True))
