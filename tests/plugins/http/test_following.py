"""Redirects are followed within policy."""

from __future__ import annotations

from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import HasLength, Is

from imagebroker.plugin import Limits, PolicyViolation, TransferError
from tests.plugins.http.files import secure
from tests.plugins.http_peers import answer, fetched, make_backend, opened, serving
from tests.servers.images import random_file
from tests.servers.nginx import REDIRECT_CODES, Nginx


@pytest.mark.parametrize("code", REDIRECT_CODES)
def test_a_redirect_is_followed(nginx: Nginx, image: Path, code: int) -> None:
    with opened(nginx.url(image.name, prefix=f"redirect/{code}")) as source:
        assert b"".join(source.read()) == image.read_bytes()
        assert b"".join(source.read(10, 20)) == image.read_bytes()[10:20]
        assert source.image.ref == nginx.url(image.name, prefix=f"redirect/{code}")


def test_later_requests_go_where_the_redirect_led(nginx: Nginx) -> None:
    random_file(nginx.root / "mirror.img", 1000)
    with opened(nginx.url("mirror.img", prefix="redirect/302")) as source:
        list(source.read(1, 2))
        list(source.read(2, 3))
    assert_that(nginx.requests("/redirect/302/mirror.img", at_least=1), HasLength(1))


def test_an_address_that_was_valid_for_a_moment_is_asked_for_again() -> None:
    part = answer(b"de", "Content-Range: bytes 3-4/5", 'ETag: "1"', status="206 Partial Content")
    whole = answer(b"abcde", 'ETag: "1"', "Accept-Ranges: bytes")
    expired = answer(b"expired", status="403 Forbidden")
    with (
        serving(whole, expired, part) as mirror,
        serving(
            answer(b"", f"Location: {mirror.url}/1", status="302 Found"),
            answer(b"", f"Location: {mirror.url}/2", status="302 Found"),
        ) as server,
        opened(f"{server.url}/x") as source,
    ):
        assert b"".join(source.read(3)) == b"de"
        assert [each.split()[1] for each in mirror.received] == [b"/1", b"/1", b"/2"]


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "scp://127.0.0.1/x",
        "gopher://127.0.0.1/x",
        "data:text/plain,x",
        "//10.0.0.1/x",
        "\\\\127.0.0.2\\x",
        "http://u@127.0.0.1/x",
        "http://u:p@127.0.0.1/x",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://10.0.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://127.0.0.1:22/",
        "http://127.0.0.1:6379/",
        "http://h\xe9/",
    ],
)
def test_a_redirect_to_somewhere_forbidden_is_refused(target: str) -> None:
    with serving(answer(b"", f"Location: {target}", status="302 Found")) as server:
        with pytest.raises(PolicyViolation):
            fetched(f"{server.url}/x")
        assert_that(server.connections, HasLength(1))


@pytest.mark.promise("security-10")
def test_a_redirect_to_an_address_that_is_not_allowed_reaches_nobody() -> None:
    with (
        serving(answer(b"secret")) as inner,
        serving(
            answer(b"", f"Location: http://127.0.0.1:{inner.port}/", status="302 Found")
        ) as server,
    ):
        backend = make_backend(reach="127.0.0.2/32")
        object.__setattr__(
            backend.host.policy, "configured", frozenset({("127.0.0.1", server.port)})
        )
        with pytest.raises(PolicyViolation):
            fetched(f"{server.url}/x", backend)
        assert_that(inner.connections, HasLength(0))


def test_a_redirect_from_https_to_http_is_refused(nginx: Nginx) -> None:
    with serving(answer(b"plain")) as server:
        url = f"{nginx.https_url}/redirect-to/302/{server.url}/x"
        with pytest.raises(PolicyViolation):
            fetched(url, secure(nginx))
        assert_that(server.connections, HasLength(0))


@pytest.mark.promise("security-14")
def test_redirects_end_at_the_limit() -> None:
    with serving(answer(b"", "Location: /again", status="302 Found")) as server:
        with pytest.raises(TransferError) as caught:
            fetched(f"{server.url}/x")
        assert_that(caught.value.retryable, Is(False))
        assert_that(server.connections, HasLength(Limits().redirects + 1))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Location: /a", "Location: /b"],
        ["Location: /a", "Location: /a"],
        ["Location: /a\rX: y"],
        ["Location: /" + "a" * 100_000],
    ],
)
def test_a_redirect_without_exactly_one_usable_location_fails(headers: list[str]) -> None:
    with serving(answer(b"", *headers, status="302 Found")) as server:
        with pytest.raises(TransferError):
            fetched(f"{server.url}/x")
        assert_that(server.connections, HasLength(1))
