"""A server that stalls or trickles is given up in time."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

import imagebroker
from imagebroker.exceptions import TransferTimeout
from imagebroker.plugin import Limits, TransferError
from tests.bounds import in_time
from tests.plugins.http.hostile.answers import BODY
from tests.plugins.http_peers import (
    STALL,
    answer,
    chunked,
    fetched,
    hang,
    impatient,
    make_backend,
    server_context,
    serving,
)
from tests.servers.raw import Connection, RawServer

#: Seconds that an error may come after a limit, on a busy machine.
GRACE = 1.0
WHOLE = answer(BODY)
STALLS = {
    "before the status": 0,
    "in the status line": 8,
    "inside headers": WHOLE.index(b"\r\n") + 5,
    "before the body": WHOLE.index(b"\r\n\r\n") + 4,
    "inside the body": len(WHOLE) - 5,
    "before the last byte": len(WHOLE) - 1,
}


@pytest.mark.promise("time-limits")
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("stage", STALLS)
def test_a_stall_ends_in_time(stage: str, tls: bool, tls_files: Path) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(WHOLE[: STALLS[stage]])
        hang(connection)

    with RawServer(script, tls=server_context(tls_files) if tls else None) as server:
        backend = impatient(ca_file=str(tls_files / "ca.pem"))
        began = monotonic()
        with pytest.raises(TransferTimeout):
            fetched(f"{server.url}/x", backend)
        assert_that(monotonic() - began, in_time(STALL))


@pytest.mark.parametrize("reply", [WHOLE, chunked(BODY)])
def test_nobody_waits_for_the_end_of_the_connection(reply: bytes) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(reply)
        hang(connection)

    patient = make_backend(limits=Limits(connect_timeout=60, stall_timeout=60))
    with RawServer(script) as server:
        began = monotonic()
        assert fetched(f"{server.url}/x", patient) == BODY
        assert_that(monotonic() - began, in_time(1))


@pytest.mark.parametrize(
    "head", [answer(BODY, "X: " + "y" * 500), b"HTTP/1.1 100 Continue\r\n\r\n" * 9 + answer(BODY)]
)
def test_headers_that_trickle_in_end_in_time(head: bytes) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.send_slowly(head, STALL / 10)

    with RawServer(script) as server:
        began = monotonic()
        with pytest.raises(TransferTimeout):
            fetched(f"{server.url}/x", impatient())
        assert_that(monotonic() - began, in_time(STALL))


def test_a_body_that_trickles_in_ends_by_the_minimum_rate(
    make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = http\nretries = 0\nstall_timeout = 0.5\n"
        "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(answer(bytes(5000))[:-5000])
        connection.send_slowly(bytes(5000), 0.1)

    with RawServer(script) as server, pytest.raises(TransferError):
        broker.download(None, f"{server.url}/x", tmp_path / "dest")
    assert not (tmp_path / "dest").exists()


def test_a_refused_connection_is_an_error() -> None:
    with serving(b"") as server:
        url = f"{server.url}/x"
    with pytest.raises(TransferError) as caught:
        fetched(url)
    assert_that(caught.value.retryable, Is(True))


def test_a_name_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(TransferError):
        fetched("http://images.invalid/x")


@pytest.mark.parametrize(
    "fields",
    [{"cert": "wrong-host"}, {"cert": "expired"}, {"cert": "not-yet-valid"}, {"cert": "self-signed"},
     {"cert": "no-intermediate"}],
)  # fmt: skip
def test_no_request_is_sent_to_a_server_with_a_bad_certificate(
    fields: dict[str, str], tls_files: Path
) -> None:
    context = server_context(tls_files, fields["cert"])
    with serving(answer(BODY), tls=context) as server:
        with pytest.raises(imagebroker.PolicyViolation):
            fetched(f"{server.url}/x", make_backend(ca_file=str(tls_files / "ca.pem")))
        assert_that(b"".join(server.received), Equals(b""))


def test_a_weak_cipher_is_refused(tls_files: Path) -> None:
    context = server_context(tls_files)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("NULL:aNULL:@SECLEVEL=0")
    with serving(answer(BODY), tls=context) as server, pytest.raises(TransferError) as caught:
        fetched(f"{server.url}/x", make_backend(ca_file=str(tls_files / "ca.pem")))
    assert_that(caught.value.retryable, Is(False))
