"""Heads that every other client reads, and those that two clients might read in different ways."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, HasLength, Is, IsInstance

from imagebroker.model.reference import parse
from imagebroker.plugin import ImageBrokerError, TransferError
from tests.plugins.http_peers import answer, chunked, fetched, make_backend, opened, serving

BODY = b"0123456789abcdef"


def read(reply: bytes) -> bytes:
    with serving(reply) as server:
        return fetched(f"{server.url}/x")


def framed(*lines: str, status: str = "HTTP/1.1 200 OK", end: str = "\r\n") -> bytes:
    """An answer of these lines; `Content-Length` is among them or comes last."""
    named = any("content-length" in line.lower() for line in lines)
    every = [status, *lines, *([] if named else [f"Content-Length: {len(BODY)}"])]
    return end.join([*every, "", ""]).encode("latin-1") + BODY


@pytest.mark.promise("web-server-liberties")
@pytest.mark.parametrize(
    "reply",
    [
        framed("X-Long: one", "  two", "\tthree"),
        framed('Content-Security-Policy: default-src "self";', "    img-src *"),
        framed("X-Empty:", " folded"),
        framed("X-Blank-Before : x"),
        framed("X: x", ": no name"),
        framed("X(odd)[name]: x"),
        framed("two words: x"),
        framed("X-Control: a\x01b\x7f"),
        framed("X-Bytes: caf\xe9 \xc3\xa9"),
        framed("CONTENT-LENGTH:16"),
        framed("content-length:\t 16 \t"),
        framed("Content-Length: 16", "Content-Length: 16"),
        framed("Content-Length: 16, 16"),
        framed("Content-Type: ;;;/", "Content-Type: image/x; a=b"),
        framed("Last-Modified: yesterday", "ETag: none", "Date: 0"),
        framed("Connection: , close ,"),
        framed("Connection: Keep-Alive", "Keep-Alive: timeout=0"),
        framed("Server: x" * 1000),
        framed(status="HTTP/1.1 200"),
        framed(status="HTTP/1.1 200 "),
        framed(status="HTTP/1.1  200 OK"),
        framed(status="http/1.1 200 ok"),
        framed(status="HTTP/1.0 200 OK"),
        framed(status="HTTP/1.1 200 \xc7a va"),
        framed(end="\n"),
        b"HTTP/1.1 100 Continue\r\n\r\n" + framed(),
        b"HTTP/1.1 103\nLink: </x>\n\n" + framed(),
    ],
)
def test_what_curl_reads_is_read(reply: bytes) -> None:
    assert_that(read(reply), Equals(BODY))


@pytest.mark.promise("web-server-liberties")
@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length : 16"],
        ["Content-Length:", " 16"],
        ["Content-Length: 1", " 6"],
        ["Content Length: 16"],
        ["Content-\x0bLength: 16"],
        ["Content-Length: 16", "Transfer-Encoding : chunked"],
        ["Content-Length: 16", "Transfer-Encoding:", " chunked"],
        ["Content-Length: 16", "Transfer-Encoding: \x0bchunked"],
        ["Content-Length: 16", "Transfer Encoding: chunked"],
        ["Content-Length: 16", "\x00Transfer-Encoding: chunked"],
        ["Content-Length: 16", "X: y\rTransfer-Encoding: chunked"],
        ["Content-Length: 16", "X: y\x00"],
        ["Content-Length: 16", "no colon"],
        [" folded: to nothing", "Content-Length: 16"],
        ["Content-Length: 16, 17"],
        ["Content-Length: 16", "Content-Length: 0016"],
        ["Content-Length: +16"],
    ],
)
def test_what_may_hide_where_the_body_ends_is_refused(lines: list[str]) -> None:
    with pytest.raises(TransferError) as caught:
        read(framed(*lines))
    assert_that(caught.value.retryable, Is(False))
    assert str(caught.value).isprintable()


def test_folds_without_end_are_too_many_lines() -> None:
    with pytest.raises(TransferError):
        read(framed("X: y", *[" z"] * 200))


def test_what_a_fold_says_belongs_to_its_header() -> None:
    reply = answer(BODY, 'ETag: "1"', "Content-Type: application/x-qemu-disk;", "\tversion=3")
    with serving(reply) as server, opened(f"{server.url}/x") as source:
        found = source.image.properties["content_type"]
    assert_that(found, Equals("application/x-qemu-disk; version=3"))


@pytest.mark.parametrize("status", ["203 Non-Authoritative Information", "203"])
def test_a_203_is_the_image(status: str) -> None:
    with serving(answer(BODY, 'ETag: "1"', status=status)) as server:
        assert_that(fetched(f"{server.url}/x"), Equals(BODY))
        assert_that(make_backend().probe(None, parse(f"{server.url}/x")).size, Equals(16))


def test_a_203_in_chunks_is_the_image() -> None:
    assert_that(read(chunked(BODY).replace(b"200 OK", b"203 OK", 1)), Equals(BODY))


@pytest.mark.parametrize(
    "said",
    [
        "bytes 4-15/16",
        "Bytes 4-15/16",
        "bytes  4-15/16",
        "bytes\t4 - 15 / 16",
        "bytes=4-15/16",
        "bytes: 4-15/16",
        "4-15/16",
    ],
)
def test_a_range_is_recognised_in_every_spelling_that_says_the_same(said: str) -> None:
    part = answer(
        BODY[4:], 'ETag: "1"', f"Content-Range: {said}", status="206 Partial Content"
    )  # fmt: skip
    with serving(answer(BODY, 'ETag: "1"'), part) as server, opened(f"{server.url}/x") as source:
        assert_that(b"".join(source.read(4)), Equals(BODY[4:]))
        assert_that(server.connections, HasLength(2))


@pytest.mark.parametrize("status", [201, 202, 206, 226, 300, 304])
def test_no_other_success_is_taken_for_the_image(status: int) -> None:
    with pytest.raises(ImageBrokerError) as caught:
        read(answer(BODY, status=f"{status} Something"))
    assert_that(caught.value, IsInstance(TransferError))


@pytest.mark.parametrize(
    "said",
    [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ],
)
def test_a_date_is_read_in_every_form_of_rfc_9110(said: str) -> None:
    with (
        serving(answer(BODY, f"Last-Modified: {said}")) as server,
        opened(f"{server.url}/x") as source,
    ):
        assert_that(source.image.updated_at, Equals(datetime(1994, 11, 6, 8, 49, 37, tzinfo=UTC)))


@pytest.mark.parametrize(
    "said", ["Sun Nov 31 08:49:37 1994", "Sun, 06 Nov 0000 08:49:37 GMT", "06 Nov 1994", "0"]
)
def test_what_is_no_date_says_nothing(said: str) -> None:
    with (
        serving(answer(BODY, f"Last-Modified: {said}")) as server,
        opened(f"{server.url}/x") as source,
    ):
        assert_that(source.image.updated_at, Is(None))
