"""What a session of requests can be told about the library that uses it."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, LessThan

from imagebroker.plugin import TransferError, TransferTimeout, http
from tests.plugins.http_peers import answer, chunked, impatient, make_backend, serving, talking
from tests.servers.raw import Connection, RawServer


def client(**options: Any) -> http.Client:
    return http.Client(make_backend(**options).host)


@pytest.mark.parametrize("reply", [answer(bytes(5000)), chunked(bytes(2500), bytes(2500))])
def test_a_library_that_asks_for_a_stream_by_accident_gets_a_bounded_body(reply: bytes) -> None:
    with serving(reply) as server:
        with http.requests_session(client(), limit=5000, streams=False) as made:
            found = made.get(f"{server.url}/x", stream=True)
            assert_that(found.content, HasLength(5000))
        with (
            http.requests_session(client(), limit=4999, streams=False) as made,
            pytest.raises(TransferError),
        ):
            made.get(f"{server.url}/x", stream=True)


def test_sessions_that_share_their_connections_use_one() -> None:
    shared = client()
    pools = shared.pools()
    with talking(answer(b"record"), answer(b"data")) as server:
        loading = http.requests_session(shared, pools=pools, streams=False)
        streaming = http.requests_session(shared, pools=pools)
        assert_that(loading.get(f"{server.url}/x").content, Equals(b"record"))
        found = http.answer_of(streaming.get(f"{server.url}/x", stream=True))
        assert_that(b"".join(found.blocks()), Equals(b"data"))
        assert_that(server.connections, HasLength(1))
        pools.close()
        with pytest.raises(TransferError):
            loading.get(f"{server.url}/x")


@pytest.mark.parametrize("reply", [answer(bytes(500_000)), chunked(bytes(250_000), bytes(250_000))])
def test_the_blocks_of_an_answer_outlive_its_response(reply: bytes) -> None:
    with serving(reply, reply[:-10]) as server, http.requests_session(client()) as made:
        found = http.answer_of(made.get(f"{server.url}/x", stream=True))
        assert_that(b"".join(found.blocks()), Equals(bytes(500_000)))
        found = http.answer_of(made.get(f"{server.url}/x", stream=True))
        with pytest.raises(TransferError):
            list(found.blocks())


def test_an_answer_belongs_to_whoever_took_it() -> None:
    with serving(answer(b"data")) as server, http.requests_session(client()) as made:
        response = made.get(f"{server.url}/x", stream=True)
        http.answer_of(response).close()
        for unsuited in (response, requests.Response()):
            with pytest.raises(TypeError):
                http.answer_of(unsuited)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_can_be_an_answer(code: int) -> None:
    with (
        serving(answer(b"data")) as other,
        serving(answer(b"", f"Location: {other.url}/y", status=f"{code} There")) as server,
        http.requests_session(client(), redirects=False) as made,
    ):
        found = made.get(f"{server.url}/x")
        assert_that(found.status_code, Equals(code))
        assert_that(found.headers["location"], Equals(f"{other.url}/y"))
        assert_that(other.connections, HasLength(0))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("streams", [False, True])
def test_of_an_error_the_beginning_is_enough(stream: bool, streams: bool) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(b"HTTP/1.1 500 No\r\n\r\n")
        sent = 0
        while sent < 1 << 30:
            sent += connection.send(b"because" * 10_000)

    with (
        RawServer(script) as server,
        http.requests_session(client(), streams=streams) as made,
    ):
        found = made.get(f"{server.url}/x", stream=stream)
        assert_that(found.status_code, Equals(500))
        assert_that(found.content[:7], Equals(b"because"))
        assert_that(len(found.content), LessThan(1_000_000))


@pytest.mark.parametrize(
    "reply",
    [
        answer(b"abc", status="503 Busy")[:-1],
        answer(b"x", "Content-Encoding: gzip", status="503 B"),
    ],
)
def test_an_error_that_is_cut_or_encoded_still_has_its_status(reply: bytes) -> None:
    with serving(reply) as server, http.requests_session(client()) as made:
        found = made.get(f"{server.url}/x")
        assert_that((found.status_code, found.content), Equals((503, b"")))


def test_a_body_that_is_encoded_is_not_taken_for_what_it_is_not() -> None:
    with (
        serving(answer(b"\x1f\x8bnot really", "Content-Encoding: gzip")) as server,
        http.requests_session(client()) as made,
        pytest.raises(TransferError) as caught,
    ):
        made.get(f"{server.url}/x")
    assert_that(str(caught.value), Contains("gzip"))


def test_a_body_that_trickles_in_ends() -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        connection.send_slowly(bytes(100_000), 0.1)

    with (
        RawServer(script) as server,
        http.requests_session(http.Client(impatient().host)) as made,
        pytest.raises(TransferTimeout),
    ):
        made.get(f"{server.url}/x")


def test_a_server_that_has_much_to_do_before_it_answers_is_given_time() -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.send_slowly(answer(b"done"), 0.05)  # the head takes seconds

    with RawServer(script) as server:
        with (
            http.requests_session(http.Client(impatient().host)) as made,
            pytest.raises(TransferTimeout),
        ):
            made.put(f"{server.url}/x", data=b"body")
        with http.requests_session(http.Client(impatient().host), patience=200) as made:
            assert_that(made.put(f"{server.url}/x", data=b"body").status_code, Equals(200))
