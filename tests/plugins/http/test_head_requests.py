"""`show` and HEAD: where a server answers it badly, it is asked for one byte."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, HasLength, LessThan, StartsWith

from imagebroker.model.reference import parse
from imagebroker.plugin import ImageNotFound, PolicyViolation, TransferError
from tests.plugins.http_peers import answer, hang, impatient, make_backend
from tests.servers.nginx import Nginx
from tests.servers.process import free_ports
from tests.servers.raw import Connection, RawServer

SIZE = 1_000_000
DATA = bytes(SIZE)
WHOLE = answer(DATA, 'ETag: "1"')
RANGE = answer(
    DATA[:1], 'ETag: "1"', f"Content-Range: bytes 0-0/{SIZE}", status="206 Partial Content"
)


def say(reply: bytes) -> Callable[[Connection], None]:
    return lambda connection: connection.sendall(reply)


def serving_head(head: Callable[[Connection], None], *gets: bytes) -> RawServer:
    """Answers a HEAD as it is told, and each GET with the next of `gets`."""
    left = list(gets)

    def script(connection: Connection, index: int) -> None:
        asked = connection.read_head()
        if asked.startswith(b"HEAD "):
            head(connection)
        elif asked:
            connection.sendall(left.pop(0) if len(left) > 1 else left[0])

    return RawServer(script)


def no_length(status: str) -> bytes:
    return answer(status=status, length=False)


BAD_HEADS = {
    "length 0": say(answer()),
    "no length": say(no_length("200 OK")),
    "400": say(answer(status="400 Bad Request")),
    "403, as presigned URLs": say(answer(status="403 Forbidden")),
    "404": say(answer(status="404 Not Found")),
    "405": say(answer(status="405 Method Not Allowed")),
    "429": say(answer(status="429 Slow Down")),
    "500": say(answer(status="500 Trouble")),
    "501": say(answer(status="501 Not Implemented")),
    "204": say(no_length("204 No Content")),
    "nothing": lambda connection: None,
    "a reset": lambda connection: connection.reset(),
    "half a head": say(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "nonsense": say(b"\x15\x03\x01\x00\x02\x02\x46"),
    "two lengths": say(answer(b"", "Content-Length: 17")),
}


@pytest.mark.promise("web-server-liberties")
@pytest.mark.parametrize("reply", [RANGE, WHOLE], ids=["ranges", "no ranges"])
@pytest.mark.parametrize("head", BAD_HEADS.values(), ids=BAD_HEADS)
def test_a_head_that_lies_or_fails_does_not_hide_the_image(
    head: Callable[[Connection], None], reply: bytes
) -> None:
    with serving_head(head, reply) as server:
        image = make_backend().get(None, parse(f"{server.url}/x"))
    assert_that((image.size, image.version), Equals((SIZE, '"1"')))


def test_a_head_that_is_never_answered_does_not_hide_it_either() -> None:
    with serving_head(hang, RANGE) as server:
        assert_that(impatient().get(None, parse(f"{server.url}/x")).size, Equals(SIZE))


@pytest.mark.parametrize("status", ["400 No Ranges", "416 Not Satisfiable", "501 What"])
def test_where_one_byte_is_refused_the_whole_is_asked_for(status: str) -> None:
    with serving_head(say(answer()), answer(status=status), WHOLE) as server:
        assert_that(make_backend().get(None, parse(f"{server.url}/x")).size, Equals(SIZE))


def test_a_part_that_does_not_say_of_what_is_not_believed() -> None:
    part = answer(b"x", status="206 Partial Content")
    with serving_head(say(answer()), part, WHOLE) as server:
        assert_that(make_backend().get(None, parse(f"{server.url}/x")).size, Equals(SIZE))


def test_only_one_byte_is_asked_for(nginx: Nginx) -> None:
    (nginx.root / "one-byte.img").write_bytes(DATA)
    image = make_backend().get(None, parse(nginx.url("one-byte.img", prefix="nohead")))
    assert_that(image.size, Equals(SIZE))
    head, get = nginx.requests("/nohead/one-byte.img", at_least=2)
    assert_that(head.line, StartsWith("HEAD "))
    assert_that(get.line, StartsWith("GET "))
    assert_that((get.status, get.sent), Equals((206, 1)))


def test_of_an_empty_image_the_size_is_0(nginx: Nginx) -> None:
    (nginx.root / "empty-head.img").write_bytes(b"")
    assert_that(make_backend().get(None, parse(nginx.url("empty-head.img"))).size, Equals(0))


def test_what_is_missing_is_missing() -> None:
    with serving_head(say(answer(status="404 No")), answer(status="404 No")) as server:
        with pytest.raises(ImageNotFound):
            make_backend().get(None, parse(f"{server.url}/x"))
        assert_that(server.connections, HasLength(2))


def test_where_a_head_is_sent_somewhere_forbidden_nothing_else_is_tried() -> None:
    away = answer(b"", "Location: http://10.0.0.1/", status="302 Found")
    with serving_head(say(away), WHOLE) as server:
        with pytest.raises(PolicyViolation):
            make_backend().get(None, parse(f"{server.url}/x"))
        assert_that(server.connections, HasLength(1))


def test_without_a_connection_there_is_no_second_request() -> None:
    [port] = free_ports(1)
    backend = make_backend()
    dials: list[int] = []
    connect = backend.host.connect
    backend.host.connect = lambda *args, **named: dials.append(1) or connect(*args, **named)  # type: ignore[method-assign,func-returns-value]
    with pytest.raises(TransferError):
        backend.get(None, parse(f"http://127.0.0.1:{port}/x"))
    assert_that(len(dials), LessThan(2))
