"""A web server behind a connection that breaks again and again: no byte is asked for twice."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan, LessThan

import imagebroker
from tests.servers.nginx import Nginx
from tests.servers.tcp import Fault, TcpProxy

MIB = 1 << 20
DATA = random.Random(11).randbytes(24 * MIB)


@pytest.fixture
def broker(make_broker: Callable[..., imagebroker.Broker]) -> imagebroker.Broker:
    return make_broker(
        "[imagebroker]\nenabled_schemes = http\nretry_backoff = 0\n"
        "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )


@pytest.mark.promise("resumed-as-one-image")
@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cut_twenty_times_at_random_the_image_is_sent_once(
    seed: int, reset: bool, nginx: Nginx, broker: imagebroker.Broker, tmp_path: Path
) -> None:
    (nginx.root / "cut.raw").write_bytes(DATA)
    rng = random.Random(seed)
    with TcpProxy("127.0.0.1", nginx.ports["http"]) as proxy:
        for index in range(20):
            after = rng.randrange(len(DATA) // 12)
            proxy.fault_for[index] = Fault(cut_after=after, reset=reset)
        url = f"http://127.0.0.1:{proxy.port}/cut.raw"
        done = broker.download(None, url, tmp_path / "image", retries=30)
        received, connections = proxy.received, proxy.connections
    assert_that((tmp_path / "image").read_bytes() == DATA, Equals(True))
    assert_that(done.evidence["sha256"], Equals(hashlib.sha256(DATA).hexdigest()))
    assert_that(connections, GreaterThan(20))
    assert_that(received, LessThan(int(1.05 * len(DATA))))
    assert_that(done.attempts, GreaterThan(3))
