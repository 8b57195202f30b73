"""What is asked of a web server by a download that goes on with what an earlier one has stored."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

import imagebroker
from imagebroker.exceptions import TransferError
from tests.servers.cutting import CuttingServer
from tests.servers.nginx import Nginx
from tests.servers.raw import RawServer

MIB = 1 << 20
DATA = random.Random(37).randbytes(8 * MIB)
CHECKSUM = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


@pytest.fixture
def broker(make_broker: Callable[..., imagebroker.Broker]) -> imagebroker.Broker:
    return make_broker(
        "[imagebroker]\nenabled_schemes = http\nretry_backoff = 0\nkeep_partial = true\n"
        "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )


def broken(broker: imagebroker.Broker, url: str, path: Path, server: CuttingServer) -> None:
    """A download that breaks after 5 MiB."""
    server.cut = 5 * MIB
    with pytest.raises(TransferError):
        broker.download(None, url, path, checksum=CHECKSUM, retries=0)
    server.cut = len(DATA)
    server.answers.clear()


@pytest.mark.promise("C37")
def test_the_rest_alone_is_asked_for(broker: imagebroker.Broker, tmp_path: Path) -> None:
    server = CuttingServer(DATA, 0)
    with RawServer(server) as raw:
        url, path = f"{raw.url}/i", tmp_path / "image"
        broken(broker, url, path, server)
        sent = server.sent
        done = broker.download(None, url, path, checksum=CHECKSUM)
    assert_that(path.read_bytes() == DATA, Is(True))
    assert_that([start for _, start in server.answers], Equals([5 * MIB]))
    assert_that(server.sent - sent, Equals(3 * MIB))
    assert_that(done.resumed_from, Equals(5 * MIB))


@pytest.mark.parametrize(
    ("change", "starts"),
    [
        ({"ranges": "ignored"}, [0]),
        ({"ranges": "refused"}, [0]),
        ({"etag": '"2"'}, [5 * MIB]),
        ({"data": DATA[: 6 * MIB]}, [5 * MIB, 0]),
        ({"data": DATA[: 4 * MIB]}, [0]),
    ],
)
def test_whatever_the_server_has_become_meanwhile_the_bytes_are_right(
    change: dict[str, Any], starts: list[int], broker: imagebroker.Broker, tmp_path: Path
) -> None:
    server = CuttingServer(DATA, 0)
    with RawServer(server) as raw:
        url, path = f"{raw.url}/i", tmp_path / "image"
        broken(broker, url, path, server)
        for name, value in change.items():
            setattr(server, name, value)
        checksum = f"sha256:{hashlib.sha256(server.data).hexdigest()}"
        broker.download(None, url, path, checksum=checksum)
    assert_that(path.read_bytes() == server.data, Is(True))
    assert_that([start for _, start in server.answers], Equals(starts))


def test_nginx_is_asked_for_the_rest_alone(
    nginx: Nginx, broker: imagebroker.Broker, tmp_path: Path
) -> None:
    (nginx.root / "rest.img").write_bytes(DATA)
    path = tmp_path / "image"
    url = nginx.url("rest.img")
    stops: list[bool] = []

    class Cancel:
        def is_set(self) -> bool:
            return bool(stops)

    def progress(step: Any) -> None:
        if step.done > MIB:
            stops.append(True)

    with pytest.raises(TransferError):
        broker.download(
            None, url, path, checksum=CHECKSUM, rate_limit=4 * MIB, progress=progress,
            cancel=Cancel(),
        )  # fmt: skip
    before = len(nginx.requests("rest.img", at_least=1))
    done = broker.download(None, url, path, checksum=CHECKSUM)
    (request,) = nginx.requests("rest.img", at_least=before + 1)[before:]
    assert_that(request.range, Equals(f"bytes={done.resumed_from}-"))
    assert_that(path.read_bytes() == DATA, Is(True))
