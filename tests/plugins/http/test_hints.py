"""What a person is told to do about a server, where another hint would mislead."""

from __future__ import annotations

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

from imagebroker.plugin import ImageBrokerError, NotAuthorized, PolicyViolation, TransferError
from tests.plugins.http.hostile.answers import failure
from tests.plugins.http_peers import answer, fetched, serving
from tests.servers.raw import Connection, RawServer


def circling(*fields: str) -> TransferError:
    """What is said of a server that sends the client in a circle."""

    def script(connection: Connection, number: int) -> None:
        connection.read_head()
        connection.sendall(answer(b"", "Location: /again", *fields, status="302 Found"))

    with RawServer(script) as server, pytest.raises(TransferError) as caught:
        fetched(f"{server.url}/again")
    return caught.value


def test_a_server_that_waits_for_its_cookie_is_told_from_one_that_sends_in_circles() -> None:
    assert_that(circling("Set-Cookie: session=1; Path=/").hint, Contains("needs no cookie"))
    assert_that(circling().hint, Contains("in circles"))


def test_a_network_that_wants_a_login_is_not_asked_again() -> None:
    error = failure(answer(b"<html>", status="511 Network Authentication Required"))
    assert_that((type(error), error.retryable), Equals((NotAuthorized, False)))
    assert_that(error.hint, Contains("log in to this network"))


@pytest.mark.parametrize(
    ("location", "what", "hint"),
    [
        ("http://u:p@127.0.0.1/x", "names a user", "operator of the server"),
        ("http://[::1/x", "not a valid URL", "operator of the server"),
        ("ftp://127.0.0.1/x", "the scheme ftp", "direct URL"),
    ],
)
def test_a_redirect_that_is_refused_says_why_and_what_to_do(
    location: str, what: str, hint: str
) -> None:
    moved = answer(b"", f"Location: {location}", status="302 Found")
    with serving(moved) as server, pytest.raises(PolicyViolation) as caught:
        fetched(f"{server.url}/x")
    error: ImageBrokerError = caught.value
    assert_that(str(error), Contains(what))
    assert_that(error.hint, Contains(hint))
    assert_that("u:p" in str(error), Is(False))


@pytest.mark.parametrize(
    ("status", "field", "hint"),
    [
        ("429 Too Many Requests", "Retry-After: 0", "the server limits requests"),
        ("400 Bad Request", "X: y", "write https:// instead of http://"),
        ("401 Unauthorized", "WWW-Authenticate: Bearer realm=x", "set token and endpoint"),
        ("401 Unauthorized", "WWW-Authenticate: Basic realm=x", "set username, password and"),
        ("401 Unauthorized", "X: y", "set username, password and endpoint"),
    ],
)
def test_the_hint_fits_the_answer(status: str, field: str, hint: str) -> None:
    assert_that(failure(answer(b"", field, status=status)).hint, Contains(hint))
