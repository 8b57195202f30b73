"""Ranges bring exactly their bytes, of one version."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import GreaterThan, HasLength, Is

from imagebroker.plugin import ImageChanged, RangeIgnored, TransferError
from tests.plugins.http.files import SIZE, secure
from tests.plugins.http_peers import answer, fetched, opened, pour, serving
from tests.servers.images import random_file
from tests.servers.nginx import Nginx
from tests.servers.raw import Connection, RawServer
from tests.servers.tcp import Fault, TcpProxy


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (0, SIZE), (1, None), (7, 8), (SIZE - 1, None), (1000, 2_000_000)]
)
def test_a_range_brings_exactly_its_bytes(
    nginx: Nginx, image: Path, start: int, stop: int | None
) -> None:
    assert fetched(nginx.url(image.name), None, start, stop) == image.read_bytes()[start:stop]


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (5, 5), (SIZE, None)])
def test_an_empty_range_asks_for_nothing(
    nginx: Nginx, image: Path, start: int, stop: int | None
) -> None:
    before = len(nginx.requests("GET"))
    with opened(nginx.url(image.name)) as source:
        assert list(source.read(start, stop)) == []
    assert_that(nginx.requests("GET", at_least=before + 1), HasLength(before + 1))


def test_ranges_are_conditional_on_the_version(nginx: Nginx) -> None:
    random_file(nginx.root / "condition.img", 1000)
    with opened(nginx.url("condition.img")) as source:
        b"".join(source.read(10, 20))
        b"".join(source.read(990))
    ranges = [r for r in nginx.requests("condition.img", at_least=3) if r.range]
    assert [r.range for r in ranges] == ["bytes=10-19", "bytes=990-"]
    assert {r.if_range.replace('\\"', '"') for r in ranges} == {source.image.version}


def test_parallel_reads_put_together_are_the_file(nginx: Nginx, image: Path) -> None:
    step = SIZE // 8 + 1
    with opened(nginx.url(image.name)) as source, ThreadPoolExecutor(8) as pool:
        parts = pool.map(
            lambda at: b"".join(source.read(at, min(at + step, SIZE))), range(0, SIZE, step)
        )
        assert b"".join(parts) == image.read_bytes()


def test_ranges_one_after_the_other_share_a_connection(nginx: Nginx) -> None:
    random_file(nginx.root / "kept.img", 100_000)
    for url in nginx.url("kept.img"), f"{nginx.https_url}/kept.img":
        before = len(nginx.requests("kept.img"))
        with opened(url, secure(nginx)) as source:
            parts = [b"".join(source.read(at, at + 20_000)) for at in range(0, 100_000, 20_000)]
        assert b"".join(parts) == (nginx.root / "kept.img").read_bytes()
        requests = nginx.requests("kept.img", at_least=before + 5)[before:]
        # The first range comes from the answer to open, which is then dropped.
        assert_that({r.connection for r in requests if r.range}, HasLength(1))


def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    def part(first: int, data: bytes) -> bytes:
        end = first + len(data) - 1
        return answer(
            data, f"Content-Range: bytes {first}-{end}/9", 'ETag: "1"', status="206 Partial Content"
        )

    whole = answer(b"abcdefghi", 'ETag: "1"', "Accept-Ranges: bytes")
    with (
        serving(whole, part(3, b"def"), part(6, b"ghi")) as server,
        opened(f"{server.url}/x") as source,
    ):
        assert b"".join(source.read(3, 6)) == b"def"
        assert b"".join(source.read(6)) == b"ghi"


def test_a_server_that_closes_a_kept_connection_while_we_ask_is_asked_once_more() -> None:
    part = answer(b"de", "Content-Range: bytes 3-4/5", 'ETag: "1"', status="206 Partial Content")

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(part if index else answer(b"abcde", 'ETag: "1"', "Accept-Ranges: bytes"))
        if index == 1:
            connection.read_head()  # it was open when the second request came, and is closed now

    with RawServer(script) as server, opened(f"{server.url}/x") as source:
        assert b"".join(source.read(3, 5)) == b"de"
        assert b"".join(source.read(3, 5)) == b"de"
        assert_that(server.connections, HasLength(3))


def test_what_a_server_sends_before_it_is_asked_is_not_taken_for_an_answer() -> None:
    part = answer(b"de", "Content-Range: bytes 3-4/5", 'ETag: "1"', status="206 Partial Content")
    sent = threading.Event()

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(part if index else answer(b"abcde", 'ETag: "1"', "Accept-Ranges: bytes"))
        if index == 1:
            connection.sendall(part.replace(b"de", b"XX"))
            sent.set()
            connection.wait_for_close(5)

    with RawServer(script) as server, opened(f"{server.url}/x") as source:
        assert b"".join(source.read(3, 5)) == b"de"
        assert sent.wait(5)
        assert b"".join(source.read(3, 5)) == b"de"


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_transfer_goes_on_where_it_stopped(nginx: Nginx, image: Path, reset: bool) -> None:
    fault = Fault(cut_after=1_500_000, reset=reset)
    with (
        TcpProxy("127.0.0.1", nginx.ports["http"], fault, only=0) as proxy,
        opened(f"http://127.0.0.1:{proxy.port}/{image.name}") as source,
    ):
        got = bytearray()
        with pytest.raises(TransferError):
            pour(source.read(), got)
        assert_that(len(got), GreaterThan(1_400_000))
        got += b"".join(source.read(len(got)))
        assert got == image.read_bytes()


@pytest.mark.promise("security-28")
def test_a_file_that_changed_is_noticed_at_every_later_request(nginx: Nginx) -> None:
    path = random_file(nginx.root / "changing.img", 1000)
    with opened(nginx.url(path.name)) as source:
        b"".join(source.read())
        path.write_bytes(b"something else" * 100)
        for start, stop in (10, 20), (10, None), (0, 10), (0, None):
            with pytest.raises(ImageChanged):
                list(source.read(start, stop))


def test_a_weak_sign_of_change_is_enough_to_stop(nginx: Nginx) -> None:
    path = random_file(nginx.root / "weakly.img", 1000)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    with opened(nginx.url(path.name, prefix="noetag")) as source:
        assert_that(source.image.version, Is(None))
        assert b"".join(source.read(10, 20)) == path.read_bytes()[10:20]
        os.utime(path, (1_700_000_001, 1_700_000_001))
        with pytest.raises(ImageChanged):
            list(source.read(10, 20))


def test_a_server_that_ignores_ranges_says_so_once(nginx: Nginx, image: Path) -> None:
    with opened(nginx.url(image.name, prefix="norange")) as source:
        with pytest.raises(RangeIgnored):
            list(source.read(10))
        assert_that(source.seekable, Is(False))
        assert b"".join(source.read()) == image.read_bytes()
