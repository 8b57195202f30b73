"""What a lying server sends, and how fetching it ends."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, LessThan, Not

from imagebroker.plugin import ImageBrokerError
from tests.plugins.http_peers import answer, chunked, fetched, serving
from tests.servers.raw import Connection, RawServer

BODY = b"0123456789abcdef"


def failure(*answers: bytes) -> ImageBrokerError:
    """What fetching an image that is answered like this raises."""
    with serving(*answers) as server, pytest.raises(ImageBrokerError) as caught:
        fetched(f"{server.url}/x")
    assert_that(caught.value.hint, Not(Equals("")))
    return caught.value


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert_that(tracemalloc.get_traced_memory()[1], LessThan(limit))
    finally:
        tracemalloc.stop()


def flooding(begin: bytes, block: bytes) -> RawServer:
    """Sends `begin`, and then `block` without end."""

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(begin)
        while True:
            connection.sendall(block)

    return RawServer(script)


CUT = {
    "counted": answer(BODY, 'ETag: "1"'),
    "chunked": chunked(BODY[:10], BODY[10:]),
    "interim": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(BODY),
}


def part(
    *headers: str,
    data: bytes = BODY[4:],
    etag: str = 'ETag: "1"',
    status: str = "206 Partial Content",
    length: bool = True,
) -> bytes:
    return answer(data, *filter(None, (etag,)), *headers, status=status, length=length)
