"""Closing ends a read that waits; nothing secret is shown; memory stays small."""

from __future__ import annotations

import base64
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, LessThan, Not

import imagebroker
from imagebroker.plugin import Limits, PolicyViolation, TransferError
from tests.plugins.http_peers import (
    answer,
    fetched,
    hang,
    make_backend,
    opened,
    server_context,
    serving,
)
from tests.servers.nginx import Nginx
from tests.servers.raw import Connection, RawServer


@pytest.mark.parametrize("tls", [False, True])
def test_close_from_another_thread_ends_a_read_that_waits(
    nginx: Nginx, tls_files: Path, tls: bool
) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(answer(b"x" * 1000).replace(b": 1000", b": 2000"))
        hang(connection)

    with RawServer(script, tls=server_context(tls_files) if tls else None) as server:
        backend = make_backend(
            limits=Limits(connect_timeout=5, stall_timeout=20), ca_file=str(nginx.ca_file)
        )
        with opened(f"{server.url}/x", backend) as source:
            chunks = source.read()
            assert_that(len(next(chunks)), Equals(1000))
            threading.Timer(0.1, source.close).start()
            with pytest.raises(TransferError):
                next(chunks)
            with pytest.raises(TransferError):
                list(source.read(5))


def test_closing_is_no_end_of_an_answer_without_length() -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(answer(b"half of it", length=False))
        hang(connection)

    with RawServer(script) as server, opened(f"{server.url}/x") as source:
        chunks = source.read()
        next(chunks)
        threading.Timer(0.1, source.close).start()
        with pytest.raises(TransferError):
            next(chunks)


def test_the_core_can_abort_a_read_over_tls(nginx: Nginx, tls_files: Path) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(answer(b"half of it").replace(b": 10", b": 20"))
        hang(connection)

    with RawServer(script, tls=server_context(tls_files)) as server:
        backend = make_backend(
            limits=Limits(connect_timeout=5, stall_timeout=20), ca_file=str(nginx.ca_file)
        )
        with opened(f"{server.url}/x", backend) as source:
            chunks = source.read()
            next(chunks)
            threading.Timer(0.1, backend.host.abort, (threading.get_ident(),)).start()
            with pytest.raises(TransferError):
                next(chunks)


def test_a_read_that_is_not_finished_lets_go_of_its_connection(nginx: Nginx, image: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with opened(nginx.url(image.name)) as source:
        chunks = source.read()
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]
    assert_that(os.listdir("/proc/self/fd"), HasLength(before))


@pytest.mark.promise("security-20")
def test_no_secret_is_shown(
    caplog: pytest.LogCaptureFixture, nginx: Nginx, tls_files: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    canary = "canary7392"
    token = base64.b64encode(f"user:{canary}".encode()).decode()
    shown = []
    replies = [
        answer(b"abc", 'ETag: "1"', "Accept-Ranges: bytes"),
        answer(b"", status="404 Not Found"),
        answer(b"", status="500 Oops"),
        answer(b"abc", "Content-Encoding: gzip"),
        answer(b"abc").replace(b": 3", b": 4"),
        answer(b"", f"Location: ?{canary}", status="302 Found"),
        b"broken",
    ]
    for reply in replies:
        with serving(reply) as server:
            backend = make_backend(username="user", password=canary, endpoint=[server.url])
            shown += [repr(backend), repr(backend.host)]
            for query in f"?X-Signature={canary}", f"?{canary}":
                try:
                    with opened(f"{server.url}/x{query}", backend) as source:
                        shown += [repr(source), repr(vars(source).get("_session"))]
                        list(source.read())
                        list(source.read(1))
                except imagebroker.ImageBrokerError as error:
                    shown += [str(error), repr(error), error.hint, str(error.__cause__)]
    text = "\n".join([*shown, caplog.text])
    assert_that(text, Not(Contains(canary)))
    assert_that(text, Not(Contains(token)))


def test_a_refused_redirect_shows_no_query() -> None:
    location = "Location: file:///?token=canary7392"
    with (
        serving(answer(b"", location, status="302 Found")) as server,
        pytest.raises(PolicyViolation) as caught,
    ):
        fetched(f"{server.url}/x?signature=canary7392")
    assert_that(str(caught.value), Not(Contains("canary7392")))


@pytest.mark.promise("security-34")
def test_importing_the_plugin_loads_no_network_library() -> None:
    code = (
        "import sys, imagebroker_http\n"
        "print([m for m in ('ssl', 'http.client', 'urllib3', 'requests') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.promise("memory")
def test_memory_does_not_grow_with_the_image() -> None:
    size = 64 << 20

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        block = bytes(1 << 20)
        for _ in range(size >> 20):
            connection.sendall(block)

    import tracemalloc

    with RawServer(script) as server, opened(f"{server.url}/x") as source:
        tracemalloc.start()
        try:
            count = sum(map(len, source.read()))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert_that(count, Equals(size))
    assert_that(peak, LessThan(8 << 20))
