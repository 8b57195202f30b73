"""The faults: a TCP proxy that corrupts, an HTTP proxy that lies, few descriptors."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, HasLength, Is

from imagebroker.testing import faults
from tests.testing.peers import Web

DATA = bytes(range(256)) * 1000


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    server.images["/image"] = DATA
    yield server
    server.close()


@contextlib.contextmanager
def lying(web: Web, **lie: Any) -> Iterator[faults.HttpProxy]:
    with faults.HttpProxy("127.0.0.1", web.port, faults.Lie(**lie)) as proxy:
        yield proxy


def get(port: int, path: str = "/image", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def test_an_honest_proxy_changes_nothing(web: Web) -> None:
    with lying(web) as proxy:
        answer, data = get(proxy.port)
        assert_that((answer.status, data), Equals((200, DATA)))
        answer, data = get(proxy.port, Range="bytes=100-199")
        assert_that((answer.status, data), Equals((206, DATA[100:200])))
        assert_that(proxy.told, Equals(0))
        assert_that([each.target for each in proxy.exchanges], Equals([b"/image"] * 2))
        assert_that(proxy.exchanges[0].length, Equals(len(DATA)))


def test_connections_are_kept_alive_through_it(web: Web) -> None:
    with lying(web) as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=5)
        for _ in range(3):
            connection.request("GET", "/image")
            assert_that(connection.getresponse().read(), Equals(DATA))
        connection.close()
        assert_that(proxy.passages, HasLength(1))


def test_ranges_are_ignored_or_shifted(web: Web) -> None:
    with lying(web, ignore_ranges=True) as proxy:
        answer, data = get(proxy.port, Range="bytes=100-")
        assert_that((answer.status, data), Equals((200, DATA)))
    with lying(web, shift_ranges=7) as proxy:
        answer, data = get(proxy.port, Range="bytes=100-")
        assert_that(data, Equals(DATA[107:]))
        total = len(DATA)
        assert_that(answer.getheader("Content-Range"), Equals(f"bytes 107-{total - 1}/{total}"))
        assert_that(proxy.told, Equals(1))


def test_lengths_are_wrong(web: Web) -> None:
    with lying(web, length=-10) as proxy:
        assert_that(get(proxy.port)[1], Equals(DATA[:-10]))
    with lying(web, length=10) as proxy, pytest.raises(http.client.IncompleteRead):
        get(proxy.port)


def test_the_image_becomes_another(web: Web) -> None:
    with lying(web, changed_from=1) as proxy:
        first, data = get(proxy.port)
        assert_that(data, Equals(DATA))
        etag = first.getheader("ETag") or ""
        second, other = get(proxy.port, **{"Range": "bytes=5-", "If-Range": etag})
        assert_that(second.status, Equals(200))
        assert_that(second.getheader("ETag"), Equals('"another"'))
        assert_that(other, Equals(bytes(byte ^ 255 for byte in DATA)))


def test_one_bit_is_wrong_in_a_body_or_anywhere(web: Web) -> None:
    wrong = DATA[:1000] + bytes([DATA[1000] ^ 1]) + DATA[1001:]
    with lying(web, corrupt_at=1000) as proxy:
        assert_that(get(proxy.port)[1], Equals(wrong))
    with faults.TcpProxy("127.0.0.1", web.port, faults.Fault(corrupt_at=0)) as tcp:
        with pytest.raises(http.client.BadStatusLine):
            get(tcp.port)
        assert_that(tcp.passages[0].struck.is_set(), Is(True))


def test_every_request_is_sent_elsewhere_or_answered_with_a_status(web: Web) -> None:
    with lying(web, redirect="http://elsewhere/") as proxy:
        answer, _ = get(proxy.port)
        assert_that(
            (answer.status, answer.getheader("Location")), Equals((302, "http://elsewhere/"))
        )
    with lying(web, status=503) as proxy:
        assert_that(get(proxy.port)[0].status, Equals(503))


def test_only_one_target_is_lied_about(web: Web) -> None:
    web.images["/other"] = b"other"
    with lying(web, target=b"/other", status=503) as proxy:
        assert_that(get(proxy.port)[1], Equals(DATA))
        assert_that(get(proxy.port, "/other")[0].status, Equals(503))


DESCRIPTORS = """
import os, resource
from imagebroker.testing import faults

before = resource.getrlimit(resource.RLIMIT_NOFILE)
taken = []
with faults.few_descriptors(3):
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        print(len(taken), error.strerror)
print(resource.getrlimit(resource.RLIMIT_NOFILE) == before)
"""


def test_exactly_so_many_descriptors_are_left() -> None:
    """In a process of its own: other threads open files, too."""
    done = subprocess.run(
        [sys.executable, "-c", DESCRIPTORS], capture_output=True, text=True, check=True
    )
    assert_that(done.stdout.split("\n")[:2], Equals(["3 Too many open files", "True"]))
