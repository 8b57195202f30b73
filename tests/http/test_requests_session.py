"""A library that stands on requests goes through the same connections, policy and bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Not

from imagebroker.plugin import PolicyViolation, TransferError, http
from tests.plugins.http_peers import answer, chunked, make_backend, serving, talking
from tests.servers.nginx import Nginx
from tests.servers.raw import Connection, RawServer

TOKEN = {"X-Auth-Token": "canary-3301", "Authorization": "Bearer canary-3301"}


def session(
    limit: int | None = None, origins: tuple[str, ...] = (), **options: Any
) -> requests.Session:
    backend = make_backend(**options)
    return http.requests_session(http.Client(backend.host), limit=limit, origins=origins)


def test_an_answer_is_what_the_server_sent(nginx: Nginx) -> None:
    (nginx.root / "list.json").write_text('{"images": []}')
    with session(ca_file=str(nginx.ca_file)) as made:
        for url in nginx.url("list.json"), f"{nginx.https_url}/list.json":
            found = made.get(url, headers=TOKEN)
            assert_that(found.json(), Equals({"images": []}))
            assert_that(found.status_code, Equals(200))
        assert_that(made.get(nginx.url("is-not-there")).status_code, Equals(404))


def test_a_connection_is_used_again() -> None:
    with talking(answer(b"one"), answer(b"two")) as server, session() as made:
        assert_that(
            [made.get(f"{server.url}/x").content for _ in range(2)], Equals([b"one", b"two"])
        )
        assert_that(server.connections, HasLength(1))


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_token_does_not_follow_a_redirect_to_another_origin(code: int) -> None:
    with (
        serving(answer(b"data")) as other,
        serving(answer(b"", f"Location: {other.url}/y", status=f"{code} There")) as server,
        session() as made,
    ):
        found = made.get(f"{server.url}/x", headers={**TOKEN, "Range": "bytes=0-"})
        assert_that(found.content, Equals(b"data"))
        assert_that(server.received[0], Contains(b"canary-3301"))
        assert_that(other.received[0], Not(Contains(b"canary-3301")))
        assert_that(other.received[0], Contains(b"Range: bytes=0-"))


def test_a_redirect_within_the_origin_keeps_the_token() -> None:
    with (
        serving(answer(b"", "Location: /y", status="302 There"), answer(b"data")) as server,
        session() as made,
    ):
        assert_that(made.get(f"{server.url}/x", headers=TOKEN).content, Equals(b"data"))
        assert_that(server.received[1], Contains(b"canary-3301"))


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/x", "file:///etc/passwd", "http://u@127.0.0.1/"]
)
def test_a_redirect_is_held_to_the_policy(target: str) -> None:
    with (
        serving(answer(b"", f"Location: {target}", status="302 There")) as server,
        session() as made,
        pytest.raises(PolicyViolation),
    ):
        made.get(f"{server.url}/x", headers=TOKEN)


def test_what_changes_something_is_sent_once_and_not_redirected() -> None:
    with (
        serving(answer(b"", "Location: /y", status="307 There")) as server,
        session() as made,
    ):
        assert_that(made.post(f"{server.url}/x", data=b"body").status_code, Equals(307))
        assert_that(server.connections, HasLength(1))


def test_a_post_that_a_kept_connection_swallows_is_not_repeated() -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(answer(b"kept"))
        connection.read_head()  # and closes it without an answer

    with RawServer(script) as server, session() as made:
        assert_that(made.get(f"{server.url}/x").content, Equals(b"kept"))
        found = made.post(f"{server.url}/x", data=b"body")
        assert_that(found.content, Equals(b"kept"))
        assert_that(server.connections, HasLength(2))  # a new one, on which nothing was pending
        assert_that(b"".join(server.received).count(b"POST"), Equals(1))


def test_another_origin_than_those_named_gets_nothing() -> None:
    with serving(answer(b"data")) as server, session(origins=("http://127.0.0.1:1/",)) as made:
        with pytest.raises(PolicyViolation):
            made.get(f"{server.url}/x", headers=TOKEN)
        assert_that(server.connections, HasLength(0))


@pytest.mark.parametrize(
    "reply",
    [answer(bytes(5000)), chunked(bytes(2500), bytes(2500)), answer(bytes(5000), length=False)],
)
def test_a_body_has_a_bound(reply: bytes) -> None:
    with serving(reply) as server:
        with session(limit=4999) as made, pytest.raises(TransferError):
            made.get(f"{server.url}/x")
        with session(limit=5000) as made:
            assert_that(made.get(f"{server.url}/x").content, HasLength(5000))


@pytest.mark.parametrize("reply", [answer(bytes(5000)), chunked(bytes(2500), bytes(2500))])
def test_a_stream_is_handed_out_in_pieces_and_a_cut_of_it_is_an_error(reply: bytes) -> None:
    with serving(reply, reply[:-10]) as server, session() as made:
        with made.get(f"{server.url}/x", stream=True) as found:
            assert_that(b"".join(found.iter_content(1000)), Equals(bytes(5000)))
        with made.get(f"{server.url}/x", stream=True) as found, pytest.raises(TransferError):
            list(found.iter_content(1000))


def test_the_environment_and_cookies_change_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login canary password canary\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with (
        serving(answer(b"")) as trap,
        talking(answer(b"1", "Set-Cookie: a=canary"), answer(b"2")) as server,
    ):
        monkeypatch.setenv("http_proxy", trap.url)
        with session() as made:
            assert_that(
                [made.get(f"{server.url}/x").content for _ in range(2)], Equals([b"1", b"2"])
            )
        assert_that(trap.connections, HasLength(0))
        assert_that(b"".join(server.received), Not(Contains(b"canary")))


def test_a_compressed_answer_is_not_unpacked() -> None:
    with (
        serving(answer(b"\x1f\x8bnot really", "Content-Encoding: gzip")) as server,
        session() as made,
    ):
        found = made.get(f"{server.url}/x", headers={"Accept-Encoding": "gzip"}, stream=True)
        assert_that(found.raw.read(), Equals(b"\x1f\x8bnot really"))
        assert_that(server.received[0], Contains(b"Accept-Encoding: identity"))
