"""A range is what was asked for, of the version that was begun, or an error."""

from __future__ import annotations

import pytest

from imagebroker.exceptions import RangeIgnored
from imagebroker.model.reference import parse
from imagebroker.plugin import (
    BackendError,
    ImageChanged,
    ImageNotFound,
    NotAuthorized,
    TransferError,
)
from tests.plugins.http.hostile.answers import BODY, part
from tests.plugins.http_peers import answer, make_backend, opened, serving

OPENED = answer(BODY, 'ETag: "1"', "Accept-Ranges: bytes")


def resumed(reply: bytes, start: int = 4, stop: int | None = None) -> bytes:
    """What a read from the middle brings when it is answered like this."""
    with serving(OPENED, reply) as server, opened(f"{server.url}/x") as source:
        return b"".join(source.read(start, stop))


def test_an_exact_range_is_read() -> None:
    assert resumed(part("Content-Range: bytes 4-15/16")) == BODY[4:]
    assert resumed(part("Content-Range: bytes 4-15/16", length=False)) == BODY[4:]
    assert resumed(part("Content-Range: bytes 4-7/16", data=BODY[4:8]), 4, 8) == BODY[4:8]


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Range: bytes 3-15/16"],
        ["Content-Range: bytes 5-15/16"],
        ["Content-Range: bytes 0-15/16"],
        ["Content-Range: bytes 4-14/16"],
        ["Content-Range: bytes 4-16/16"],
        ["Content-Range: bytes 4-15/17"],
        ["Content-Range: bytes 4-15/15"],
        ["Content-Range: bytes 4-15/*"],
        ["Content-Range: bytes */16"],
        ["Content-Range: bytes 15-4/16"],
        ["Content-Range: bytes 4-/16"],
        ["Content-Range: items 4-15/16"],
        ["Content-Range: bytes 4-15"],
        ["Content-Range: bytes +4-15/16"],
        ["Content-Range: "],
        [],
        ["Content-Range: bytes 4-15/16", "Content-Range: bytes 4-15/16"],
        ["Content-Range: bytes 4-15/16", "Content-Range: bytes 0-11/16"],
        ["Content-Range: bytes 4-15/16", "Content-Type: multipart/byteranges; boundary=x"],
        ["Content-Type: multipart/byteranges; boundary=x"],
    ],
)
def test_another_range_than_was_asked_for_is_not_read(headers: list[str]) -> None:
    with pytest.raises(RangeIgnored):
        resumed(part(*headers))


def test_a_range_whose_length_contradicts_it_is_not_read() -> None:
    with pytest.raises(RangeIgnored):
        resumed(part("Content-Range: bytes 4-15/16", data=BODY[4:10]))


def test_a_range_that_is_shorter_than_it_says_is_an_error() -> None:
    with pytest.raises(TransferError):
        resumed(part("Content-Range: bytes 4-15/16", data=BODY[4:10], length=False))


def test_a_range_that_is_longer_than_it_says_is_cut_off() -> None:
    reply = part("Content-Range: bytes 4-7/16", data=BODY[4:], length=False)
    assert resumed(reply, 4, 8) == BODY[4:8]


@pytest.mark.parametrize(
    "reply",
    [
        part("Content-Range: bytes 4-15/16", etag='ETag: "2"'),
        part("Content-Range: bytes 4-15/16", etag='ETag: "2"', status="200 OK", data=BODY),
        part(etag="", status="200 OK", data=BODY),
        part(status="412 Precondition Failed", data=b""),
    ],
)
def test_another_version_in_the_middle_is_a_change(reply: bytes) -> None:
    with pytest.raises(ImageChanged):
        resumed(reply)


@pytest.mark.parametrize(
    "reply",
    [
        answer(BODY, 'ETag: "1"'),
        part("Content-Range: bytes 4-15/16", etag=""),
        part("Content-Range: bytes 4-15/16", etag='ETag: W/"1"'),
        part("Content-Range: bytes */16", status="416 Range Not Satisfiable", data=b""),
        part(status="400 Bad Request", data=b""),
    ],
)
def test_a_server_that_cannot_begin_in_the_middle_is_told_apart(reply: bytes) -> None:
    with pytest.raises(RangeIgnored):
        resumed(reply)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (part(status="404 Not Found"), ImageNotFound),
        (part(status="403 Forbidden"), NotAuthorized),
        (part(status="503 Busy"), BackendError),
        (part("Content-Range: bytes 4-15/16", "Content-Encoding: gzip"), ImageChanged),
        (b"garbage\r\n", TransferError),
    ],
)
def test_other_errors_in_the_middle_are_what_they_are(reply: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        resumed(reply)


def test_a_head_that_lies_does_not_fool_get() -> None:
    for reply in (
        answer(BODY, "Content-Length: 17"),
        answer(b"", status="206 Partial Content"),
    ):
        with serving(reply) as server, pytest.raises(TransferError):
            make_backend().get(None, parse(f"{server.url}/x"))
