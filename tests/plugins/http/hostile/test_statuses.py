"""Every status has its error, and it is the core that judges content."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan, Is, LessThan

from imagebroker.exceptions import Gone
from imagebroker.plugin import (
    BackendError,
    ImageBrokerError,
    ImageNotFound,
    NotAuthorized,
    TransferError,
)
from tests.plugins.http.hostile.answers import BODY, failure, flooding, memory_below
from tests.plugins.http_peers import answer, chunked, fetched, serving


@pytest.mark.parametrize(
    ("status", "error", "retryable"),
    [
        (201, TransferError, False),
        (202, TransferError, False),
        (204, ImageNotFound, False),
        (205, ImageNotFound, False),
        (206, TransferError, False),
        (226, TransferError, False),
        (300, TransferError, False),
        (304, TransferError, False),
        (305, TransferError, False),
        (400, BackendError, False),
        (401, NotAuthorized, False),
        (403, NotAuthorized, False),
        (404, ImageNotFound, False),
        (407, NotAuthorized, False),
        (408, BackendError, False),
        (410, Gone, False),
        (416, BackendError, False),
        (418, BackendError, False),
        (429, BackendError, True),
        (451, BackendError, False),
        (500, BackendError, True),
        (501, BackendError, True),
        (502, BackendError, True),
        (503, BackendError, True),
        (504, BackendError, True),
        (599, BackendError, True),
        (600, BackendError, True),
    ],
)
def test_every_status_has_its_error(status: int, error: type[Exception], retryable: bool) -> None:
    found = failure(answer(BODY, status=f"{status} Some reason"))
    assert type(found) is error
    assert_that(found.retryable, Is(retryable))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5.0),
        ("0", 0.0),
        ("-1", None),
        ("1e9", None),
        ("1000000000", 86400.0),  # nobody waits longer than a day
        ("9" * 400, None),
        ("soon", None),
        ("", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sun, 99 Nov 2094 08:49:37 GMT", None),
    ],
)
def test_retry_after_is_passed_on_where_it_makes_sense(value: str, seconds: float | None) -> None:
    error = failure(answer(b"", f"Retry-After: {value}", status="503 Busy"))
    assert_that(error.retry_after, Equals(seconds))


def test_retry_after_may_be_a_date() -> None:
    later = datetime.now(UTC) + timedelta(seconds=90)
    text = later.strftime("%a, %d %b %Y %H:%M:%S GMT")
    error = failure(answer(b"", f"Retry-After: {text}", status="429 Slow down"))
    assert error.retry_after is not None
    assert_that(error.retry_after, GreaterThan(80))
    assert_that(error.retry_after, LessThan(91))


@pytest.mark.promise("security-33")
@pytest.mark.parametrize("status", ["404 No", "500 Oops", "302 Found", "401 No"])
def test_an_error_body_without_end_is_not_read(status: str) -> None:
    head = answer(b"", "Location: file:///x", status=status, length=False)
    with (
        flooding(head, b"x" * 65536) as server,
        memory_below(1 << 20),
        pytest.raises(ImageBrokerError),
    ):
        fetched(f"{server.url}/x")


def test_a_reason_with_control_characters_is_harmless() -> None:
    error = failure(answer(b"", status="500 \x1b[31mred"))
    assert isinstance(error, TransferError)
    assert str(error).isprintable()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"QFI\xfb" + bytes(2000), "text/html"),
        (b"QFI\xfb", "text/plain"),
        (b"<html>", "text/html"),
        (b"<html>", "text/plain"),
        (b"<html>", "application/octet-stream"),
        (b"", "text/html"),
        (b"x", "text/html"),
        (bytes(5000), "text/html"),
    ],
)
def test_it_is_the_core_that_judges_the_content(data: bytes, kind: str) -> None:
    with serving(answer(data, f"Content-Type: {kind}")) as server:
        assert fetched(f"{server.url}/x") == data


def test_an_empty_image_is_empty() -> None:
    for reply in answer(b""), chunked():
        with serving(reply) as server:
            assert fetched(f"{server.url}/x") == b""
