"""Downloads through the broker."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan

import imagebroker
from tests.plugins.http_peers import answer, serving
from tests.servers.nginx import Nginx
from tests.servers.tcp import Fault, TcpProxy

CONFIG = """
[imagebroker]
enabled_schemes = http, https
retry_backoff = 0
stall_timeout = 10
[backend:http]
allowed_networks = 127.0.0.0/8
{}
"""


def test_a_download_through_the_broker_is_the_file(
    nginx: Nginx, image: Path, make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    broker = make_broker(CONFIG.format(f"ca_file = {nginx.ca_file}"))
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    for url in nginx.url(image.name), f"{nginx.https_url}/{image.name}":
        done = broker.download(None, url, tmp_path / "dest", checksum=f"sha256:{digest}")
        assert_that(done.evidence["sha256"], Equals(digest))
        assert (tmp_path / "dest").read_bytes() == image.read_bytes()


def test_a_download_through_the_broker_survives_cuts(
    nginx: Nginx, image: Path, make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    broker = make_broker(CONFIG.format(""))
    with TcpProxy("127.0.0.1", nginx.ports["http"], Fault(cut_after=700_000)) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/{image.name}"
        done = broker.download(None, url, tmp_path / "dest")
        assert_that(proxy.connections, GreaterThan(4))
    assert (tmp_path / "dest").read_bytes() == image.read_bytes()
    assert_that(done.resumed_from, GreaterThan(2_000_000))


def test_a_server_that_ignores_ranges_is_read_again_from_the_start(
    make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    data = bytes(range(256)) * 1000
    whole = answer(data, 'ETag: "1"', "Accept-Ranges: bytes")
    broker = make_broker(CONFIG.format(""))
    with serving(whole[:-1000], whole, whole) as server:
        broker.download(None, f"{server.url}/x", tmp_path / "dest")
    assert (tmp_path / "dest").read_bytes() == data
