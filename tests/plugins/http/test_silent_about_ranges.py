"""Servers that serve ranges and do not say so: they are asked all the same (RFC 9110, 14.3)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan, Is

import imagebroker
from imagebroker.plugin import RangeIgnored
from tests.plugins.http_peers import answer, opened, serving
from tests.servers.nginx import Nginx
from tests.servers.raw import Connection, RawServer

MIB = 1 << 20
DATA = bytes(range(256)) * (4 * MIB // 256)
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


@pytest.fixture
def broker(make_broker: Callable[..., imagebroker.Broker]) -> imagebroker.Broker:
    return make_broker(
        "[imagebroker]\nenabled_schemes = http\nretry_backoff = 0\nretries = 2\n"
        "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )


class Cutting(RawServer):
    """Breaks off after 1 MiB, each time; serves ranges where it is not `deaf`."""

    def __init__(self, *headers: str, deaf: bool = False, version: str = "1.1") -> None:
        self.starts: list[int] = []
        self._headers, self._deaf, self._version = headers, deaf, version
        super().__init__(self._answer)

    def _answer(self, connection: Connection, index: int) -> None:
        found = re.search(rb"Range: bytes=(\d+)-", connection.read_head())
        start = int(found[1]) if found else 0
        self.starts.append(start)
        if found and not self._deaf:
            said = f"Content-Range: bytes {start}-{len(DATA) - 1}/{len(DATA)}"
            reply = answer(DATA[start:], said, *self._headers, status="206 Partial Content")
        else:
            reply = answer(DATA, *self._headers, version=self._version)
        whole = self._deaf and len(self.starts) > 2
        connection.sendall(reply if whole else reply[: len(reply) - len(DATA) + start + MIB])
        connection.finish()


@pytest.mark.promise("web-server-liberties")
@pytest.mark.parametrize(
    ("headers", "checksum"),
    [
        (['ETag: "1"'], None),
        (['ETag: "1"'], SHA256),
        (['ETag: W/"1"'], SHA256),
        ([], SHA256),
        (["Accept-Ranges: lines"], SHA256),
    ],
)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_after_a_cut_the_rest_is_asked_for(
    headers: list[str], checksum: str | None, version: str, broker: imagebroker.Broker,
    tmp_path: Path,
) -> None:  # fmt: skip
    with Cutting(*headers, version=version) as server:
        done = broker.download(None, f"{server.url}/x", tmp_path / "image", checksum=checksum)
    assert_that((tmp_path / "image").read_bytes() == DATA, Is(True))
    assert_that(server.starts, Equals([0, MIB, 2 * MIB, 3 * MIB]))
    assert_that(done.resumed_from, Equals(3 * MIB))


def test_a_whole_answer_shows_a_server_that_cannot(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    with Cutting('ETag: "1"', deaf=True) as server:
        broker.download(None, f"{server.url}/x", tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes() == DATA, Is(True))
    assert_that(server.starts, Equals([0, MIB, 0]))


def test_a_server_that_says_none_is_not_asked(broker: imagebroker.Broker, tmp_path: Path) -> None:
    with Cutting('ETag: "1"', "Accept-Ranges: none", deaf=True) as server:
        broker.download(None, f"{server.url}/x", tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes() == DATA, Is(True))
    assert_that(server.starts, Equals([0, 0, 0]))


def test_what_is_not_promised_is_not_asked_for_in_parallel() -> None:
    for headers, most in ((['ETag: "1"'], 1), (['ETag: "1"', "Accept-Ranges: bytes"], 2)):
        with serving(answer(b"x", *headers)) as server, opened(f"{server.url}/x") as source:
            assert_that(source.seekable, Is(True))
            assert_that(source.parallel_reads, GreaterThan(most - 1))
            assert_that(source.parallel_reads == 1, Is(most == 1))


def test_a_server_that_turns_out_to_know_no_ranges_is_not_asked_again(nginx: Nginx) -> None:
    (nginx.root / "silent.img").write_bytes(DATA)
    with opened(nginx.url("silent.img", prefix="norange")) as source:
        assert_that(source.seekable, Is(True))
        with pytest.raises(RangeIgnored):
            list(source.read(MIB))
        assert_that(source.seekable, Is(False))
        assert_that(b"".join(source.read(0)) == DATA, Is(True))
