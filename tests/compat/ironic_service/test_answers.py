"""Ironic's own tests mock the requests; here both services get the same answers from a server."""

from __future__ import annotations

from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

from tests.compat.ironic_service.conftest import Ironic
from tests.plugins.http_peers import answer, serving

pytestmark = pytest.mark.promise("ironic")

BODY = bytes(range(256)) * 4
GOOD = answer(BODY, "Last-Modified: Tue, 15 Nov 2005 08:12:31 GMT")


@pytest.mark.parametrize(
    "reply",
    [
        answer(BODY, "Last-Modified: Tuesday, 15-Nov-05 08:12:31 GMT"),
        answer(BODY, "Last-Modified: Tue Nov 15 08:12:31 2005"),
        answer(BODY, "Last-Modified: yesterday"),
        answer(BODY),
        answer(BODY, "Cache-Control: no-store"),
        answer(BODY, "Cache-Control: max-age=60, no-store"),
        answer(BODY, "Cache-Control: no-cache"),
        answer(BODY, length=False),
        answer(b"", "Content-Type: application/octet-stream"),
        answer(b"", status="204 No Content", length=False),
        answer(b"no", status="400 Bad Request"),
        answer(b"no", 'WWW-Authenticate: Basic realm="x"', status="401 Unauthorized"),
        answer(b"no", status="404 Not Found"),
        answer(b"no", status="410 Gone"),
        answer(b"no", status="500 Internal Server Error"),
        answer(b"no", "Retry-After: 60", status="503 Service Unavailable"),
    ],
    ids=lambda reply: reply.partition(b"\r\n\r\n")[0].decode("latin-1")[:60],
)
def test_what_is_said_of_an_answer_to_a_head_is_the_same(ironic: Ironic, reply: bytes) -> None:
    with serving(reply) as server:
        for path in ("/image.img", "/folder/"):
            theirs, ours = ironic.both("show", f"{server.url}{path}")
            assert_that(ours, Equals(theirs))


def test_the_size_of_an_error_page_is_not_that_of_an_image(ironic: Ironic) -> None:
    """Ironic returns it for a folder that must not be listed."""
    failed = "ironic.common.exception.ImageRefValidationFailed"
    with serving(answer(b"no", status="403 Forbidden")) as server:
        assert_that(ironic.both("show", f"{server.url}/image"), Equals([failed, failed]))
        assert_that(ironic.both("show", f"{server.url}/folder/")[1], Equals(failed))


@pytest.mark.parametrize("place", ["/image", "/folder/"])
def test_whether_an_href_is_valid_is_the_same(ironic: Ironic, place: str) -> None:
    for reply in (GOOD, answer(b"no", status="403 Forbidden"), answer(b"no", status="404 No")):
        with serving(reply) as server:
            theirs, ours = ironic.both("validate_href", f"{server.url}{place}")
            # An answer has its url, status and some headers; what is refused is a class.
            assert_that(ours[:2], Equals(theirs[:2]))


def test_a_redirect_is_followed(ironic: Ironic) -> None:
    # Without the second field Ironic may send its next request over the connection that ends.
    moved = answer(b"", "Location: /elsewhere", "Connection: close", status="302 Found")
    with serving(moved, GOOD, moved, GOOD) as server:
        theirs, ours = ironic.both("show", f"{server.url}/image")
    assert_that(ours, Equals(theirs))


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden", "204 No Content"])
def test_a_download_that_is_answered_with_another_status_is_the_same_error(
    ironic: Ironic, tmp_path: Path, status: str
) -> None:
    kinds = []
    for api in ("ironic", "ours"):
        with serving(answer(b"", status=status)) as server:
            kinds.append(ironic.refused(api, f"{server.url}/image", tmp_path / api))
    assert_that(kinds[1], Equals(kinds[0]))
