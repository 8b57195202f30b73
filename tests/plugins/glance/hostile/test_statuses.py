"""Each status has its error."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Is, LessThan, MatchesAll, Not

from imagebroker.plugin import (
    BackendError,
    Conflict,
    Gone,
    ImageBrokerError,
    ImageNotFound,
    InvalidImageRef,
    NotAuthorized,
    PolicyViolation,
    QuotaExceeded,
    TransferError,
)
from tests.plugins.glance_stub import (
    ID,
    REF,
    OneImage,
    Request,
    Stub,
    answer,
    asking,
    caller,
    fetched,
)
from tests.servers.raw import Connection

STATUSES = [
    (300, TransferError, False), (400, InvalidImageRef, False), (401, NotAuthorized, False),
    (403, NotAuthorized, False), (404, ImageNotFound, False), (409, Conflict, False),
    (410, Gone, False), (413, QuotaExceeded, False), (418, BackendError, False),
    (429, BackendError, True), (500, BackendError, True), (501, BackendError, False),
    (502, BackendError, True), (503, BackendError, True), (504, BackendError, True),
]  # fmt: skip


@pytest.mark.parametrize("where", ["show", "file"])
@pytest.mark.parametrize(("status", "kind", "retryable"), STATUSES)
def test_each_status_has_its_error(
    glance: tuple[Stub, OneImage], where: str, status: int, kind: type[Exception], retryable: bool
) -> None:
    stub, image = glance
    setattr(image, where, lambda request, _: answer(status, b"<h1>no</h1> way"))
    with pytest.raises(kind) as caught:
        fetched(asking(stub))
    error = caught.value
    assert isinstance(error, ImageBrokerError)
    assert_that(error.retryable, Is(retryable))
    assert_that(bool(error.hint), Is(True))
    ending = "/file" if where == "file" else ID
    assert_that(stub.count("GET", ending), Equals(1))


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("5", 5, 5),
        (timedelta(seconds=600), 500, 600),
        (timedelta(seconds=-600), 0, 0),
    ],
    ids=["seconds", "a date to come", "a date that is past"],
)
def test_a_wish_to_be_asked_later_is_passed_on(
    glance: tuple[Stub, OneImage], status: int, value: str | timedelta, least: float, most: float
) -> None:
    stub, image = glance
    if isinstance(value, timedelta):  # reckoned now: tests may be collected long before they run
        value = format_datetime(datetime.now(UTC) + value, usegmt=True)
    image.show = lambda request, _: answer(status, b"", f"Retry-After: {value}")
    with pytest.raises(BackendError) as caught:
        fetched(asking(stub))
    after = caught.value.retry_after
    assert after is not None
    assert_that(least <= after <= most, Is(True))


@pytest.mark.parametrize("value", ["-1", "1e9", "soon", "", "٣", "9" * 30])
def test_a_garbled_wish_is_ignored(glance: tuple[Stub, OneImage], value: str) -> None:
    stub, image = glance
    header = f"Retry-After: {value}".encode().decode("latin-1")
    image.show = lambda request, _: answer(503, b"", header)
    with pytest.raises(BackendError) as caught:
        fetched(asking(stub))
    assert_that(caught.value.retry_after, Is(None))


@pytest.mark.promise("security-18", "security-34")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["show", "file"])
def test_no_redirect_is_followed(glance: tuple[Stub, OneImage], where: str, status: int) -> None:
    stub, image = glance
    with Stub(OneImage()) as trap:
        setattr(image, where, lambda request, _: answer(status, b"", f"Location: {trap.url}/x"))
        with pytest.raises(PolicyViolation):
            fetched(asking(stub))
        assert_that(trap.connections, HasLength(0))


@pytest.mark.promise("security-33")
def test_an_endless_error_body_is_left_unread(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance

    def show(request: Request, connection: Connection) -> None:
        connection.sendall(b"HTTP/1.1 500 No\r\n\r\n")
        sent = 0
        while sent < 1 << 30:
            sent += connection.send(b"x" * 65536)

    image.show = show
    with pytest.raises(BackendError) as caught:
        fetched(asking(stub))
    assert_that(len(str(caught.value)), LessThan(1100))


def test_an_error_text_is_one_clean_line(glance: tuple[Stub, OneImage]) -> None:
    stub, image = glance
    body = b"<html><head><title>t</title></head><body>bad\r\n\x1b[31m <b>luck</b> &amp; more"
    image.show = lambda request, _: answer(404, body + b"x" * 100_000)
    with pytest.raises(ImageNotFound) as caught:
        fetched(asking(stub))
    assert_that(
        str(caught.value), MatchesAll(Contains("bad \\x1b[31m luck & more"), Not(Contains("\n")))
    )


@pytest.mark.parametrize("header", ["X no colon", "X\x1b[31m", " folded", "X : y\r\nno colon"])
def test_a_header_that_cannot_be_read_is_an_error_and_not_in_the_log_as_it_came(
    glance: tuple[Stub, OneImage], header: str, caplog: pytest.LogCaptureFixture
) -> None:
    stub, image = glance
    image.show = lambda request, _: answer(200, b"{}", header)
    with pytest.raises(TransferError):
        asking(stub).open(caller(), REF)
    assert_that(
        [r.getMessage() for r in caplog.records if not r.getMessage().isprintable()], Equals([])
    )
