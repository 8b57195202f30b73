"""A server that breaks off at any byte: an error, never a short image."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import HasLength, Is

import imagebroker
from imagebroker.plugin import TransferError
from tests.plugins.http.hostile.answers import BODY, CUT
from tests.plugins.http_peers import (
    answer,
    fetched,
    make_backend,
    opened,
    pour,
    server_context,
    serving,
)
from tests.servers.raw import Connection, RawServer


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("framing", CUT)
def test_a_cut_at_any_byte_is_an_error(framing: str, reset: bool) -> None:
    whole = CUT[framing]

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(whole[:index])
        if reset:
            connection.reset()

    with RawServer(script) as server:
        for offset in range(len(whole)):
            got = bytearray()
            with pytest.raises(TransferError) as caught, opened(f"{server.url}/x") as source:
                pour(source.read(), got)
            assert BODY.startswith(got), offset
            assert_that(caught.value.retryable, Is(True))
    assert_that(server.connections, HasLength(len(whole)))


@pytest.mark.parametrize("framing", CUT)
def test_a_cut_of_tls_at_any_byte_is_an_error(framing: str, tls_files: Path) -> None:
    whole = CUT[framing]

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(whole[: index * 5])
        os.close(connection.detach())

    backend = make_backend(ca_file=str(tls_files / "ca.pem"))
    with RawServer(script, tls=server_context(tls_files)) as server:
        for _ in range(0, len(whole), 5):
            with pytest.raises(TransferError):
                fetched(f"{server.url}/x", backend)


def test_bytes_before_a_reset_are_handed_out_over_tls_too(tls_files: Path) -> None:
    data = bytes(100_000)

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(answer(data * 2)[: -len(data)])
        os.close(connection.detach())

    backend = make_backend(ca_file=str(tls_files / "ca.pem"))
    got = bytearray()
    with (
        RawServer(script, tls=server_context(tls_files)) as server,
        opened(f"{server.url}/x", backend) as source,
        pytest.raises(TransferError),
    ):
        pour(source.read(), got)
    assert got == data


def test_bytes_are_handed_out_as_they_arrive(tls_files: Path) -> None:
    for tls in None, server_context(tls_files):
        more = threading.Event()

        def script(connection: Connection, index: int, more: threading.Event = more) -> None:
            connection.read_head()
            connection.sendall(answer(BODY)[:-8])
            more.wait(10)
            connection.sendall(BODY[-8:])

        backend = make_backend(ca_file=str(tls_files / "ca.pem"))
        with RawServer(script, tls=tls) as server, opened(f"{server.url}/x", backend) as source:
            chunks = source.read()
            assert next(chunks) == BODY[:8]
            more.set()
            assert b"".join(chunks) == BODY[8:]


def test_without_a_length_the_end_of_the_connection_is_the_end() -> None:
    for version in "1.0", "1.1":
        with (
            serving(answer(BODY, length=False, version=version)) as server,
            opened(f"{server.url}/x") as source,
        ):
            assert_that(source.image.size, Is(None))
            assert b"".join(source.read()) == BODY


def test_an_unknown_size_is_refused_by_the_broker_unless_allowed(
    make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = http\nretry_backoff = 0\n"
        "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )
    with serving(answer(BODY, length=False)) as server:
        with pytest.raises(imagebroker.ImageBrokerError):
            broker.download(None, f"{server.url}/x", tmp_path / "dest")
        assert not (tmp_path / "dest").exists()


def test_bytes_beyond_the_length_are_not_read() -> None:
    with (
        serving(answer(BODY).replace(b": 16", b": 10"), answer(b"")) as server,
        opened(f"{server.url}/x") as source,
    ):
        assert b"".join(source.read()) == BODY[:10]


def test_a_connection_with_surplus_bytes_is_not_used_again() -> None:
    part = answer(
        BODY[4:8], "Content-Range: bytes 4-7/16", 'ETag: "1"', status="206 Partial Content"
    )
    whole = answer(BODY, 'ETag: "1"', "Accept-Ranges: bytes")
    with (
        serving(whole, part + part.replace(b"4567", b"XXXX"), part) as server,
        opened(f"{server.url}/x") as source,
    ):
        assert b"".join(source.read(4, 8)) == BODY[4:8]
        assert b"".join(source.read(4, 8)) == BODY[4:8]
        assert_that(server.connections, HasLength(3))


@pytest.mark.parametrize("framing", CUT)
def test_an_answer_that_comes_byte_by_byte_is_the_same(framing: str) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.send_slowly(CUT[framing], 0)

    with RawServer(script) as server:
        assert fetched(f"{server.url}/x") == BODY
