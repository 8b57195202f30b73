"""A library that takes a urllib3 PoolManager goes through the same connections and policy."""

from __future__ import annotations

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength

from imagebroker.plugin import PolicyViolation, TransferError, http
from tests.plugins.http_peers import answer, make_backend, serving, talking


def manager(limit: int | None = None, origins: tuple[str, ...] = ()):  # type: ignore[no-untyped-def]
    return http.pool_manager(http.Client(make_backend().host), limit=limit, origins=origins)


def test_answers_are_urllib3s_own_over_kept_connections() -> None:
    with talking(answer(b"one", 'ETag: "1"'), answer(b"two")) as server:
        made = manager()
        first = made.request("GET", f"{server.url}/x", headers={"X-Own": "7"})
        assert_that((first.status, first.data, first.headers["etag"]), Equals((200, b"one", '"1"')))
        second = made.request("GET", f"{server.url}/y", preload_content=False)
        assert_that(b"".join(second.stream()), Equals(b"two"))
        assert_that(server.connections, HasLength(1))
        assert_that(server.received[0], Contains(b"X-Own: 7"))
        made.clear()


def test_a_redirect_is_an_answer() -> None:
    with serving(answer(b"", "Location: http://127.0.0.1:9/", status="302 There")) as server:
        assert_that(manager().request("GET", f"{server.url}/x").status, Equals(302))


def test_policy_bounds_and_origins_hold() -> None:
    with pytest.raises(PolicyViolation):
        manager().request("GET", "http://10.255.255.1/")
    with serving(answer(b"x" * 2000)) as server:
        with pytest.raises(TransferError, match="longer"):
            manager(limit=1000).request("GET", f"{server.url}/x")
        with pytest.raises(PolicyViolation, match="sent on"):
            manager(origins=("http://127.0.0.1:9",)).request("GET", f"{server.url}/x")
