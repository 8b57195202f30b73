"""TLS that is read in large blocks ends, waits and fails as `ssl.SSLSocket` does."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, LessThan

from imagebroker.backends.backend import Limits
from imagebroker.http.tls_socket import TlsSocket
from imagebroker.http.wire import Wire
from tests.bounds import HANGS
from tests.plugins.http_peers import server_context
from tests.servers.certificates import write_certificates
from tests.servers.process import HOST
from tests.servers.raw import Connection, RawServer

DATA = os.urandom(3 * 1024 * 1024 + 7)
Talk = Callable[[Connection], object]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    write_certificates(folder)
    return folder


@contextmanager
def talking(
    certificates: Path,
    talk: Talk,
    *,
    version: ssl.TLSVersion | None = None,
    certificate: str = "good",
) -> Iterator[TlsSocket]:
    """A connection to a server that does `talk`."""
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    context.maximum_version = version or ssl.TLSVersion.MAXIMUM_SUPPORTED
    server = RawServer(
        lambda connection, index: talk(connection),
        tls=server_context(certificates, certificate),
    )
    with server, socket.create_connection((HOST, server.port), timeout=HANGS) as sock:
        yield TlsSocket(sock, context, HOST)


def read_all(tls: TlsSocket, size: int = 1024 * 1024) -> bytes:
    found, buffer = bytearray(), bytearray(size)
    while count := tls.recv_into(buffer):
        found += buffer[:count]
    return bytes(found)


def said_and_ended(connection: Connection) -> None:
    connection.sendall(DATA)
    connection.finish()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("size", [1000, 16 * 1024, 1024 * 1024])
def test_all_bytes_arrive_in_order_whatever_the_buffer(
    certificates: Path, size: int, version: ssl.TLSVersion
) -> None:
    with talking(certificates, said_and_ended, version=version) as tls:
        assert_that(read_all(tls, size) == DATA, Equals(True))


def test_what_is_sent_arrives(certificates: Path) -> None:
    got = []

    def talk(connection: Connection) -> None:
        got.append(connection.read_exactly(len(DATA)))
        connection.sendall(b"thanks")
        connection.finish()

    with talking(certificates, talk) as tls:
        tls.sendall(memoryview(DATA))
        assert_that(read_all(tls), Equals(b"thanks"))
    assert_that(got[0] == DATA, Equals(True))


def test_an_end_without_notice_is_an_error_behind_the_bytes_before_it(certificates: Path) -> None:
    def talk(connection: Connection) -> None:
        connection.sendall(b"half")
        socket.socket.shutdown(connection, socket.SHUT_RDWR)

    with talking(certificates, talk) as tls:
        buffer = bytearray(100)
        assert_that(tls.recv_into(buffer), Equals(4))
        for _ in range(2):
            with pytest.raises(ssl.SSLEOFError):
                tls.recv_into(buffer)


@pytest.mark.parametrize("after", [0, 100])
def test_bytes_that_were_changed_on_the_way_are_an_error(certificates: Path, after: int) -> None:
    def talk(connection: Connection) -> None:
        connection.sendall(DATA[:after])
        raw = socket.socket(fileno=os.dup(connection.fileno()))
        with raw:
            raw.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))  # a record with a wrong tag
            connection.wait_for_close(HANGS)

    with talking(certificates, talk) as tls:
        buffer, count = bytearray(1000), 0
        with pytest.raises(ssl.SSLError) as caught:
            while True:
                count += tls.recv_into(buffer)
    assert_that(count, Equals(after))
    assert_that(str(caught.value).upper(), Contains("BAD RECORD MAC"))


def test_a_server_that_is_silent_is_waited_for_as_long_as_the_socket_says(
    certificates: Path,
) -> None:
    with talking(certificates, lambda connection: connection.wait_for_close(HANGS)) as tls:
        tls.settimeout(0.05)
        with pytest.raises(TimeoutError):
            tls.recv_into(bytearray(10))
        tls.settimeout(0)
        with pytest.raises(ssl.SSLWantReadError):
            tls.recv_into(bytearray(10))
        assert_that(tls.gettimeout(), Equals(0))


@pytest.mark.parametrize("pause", [0.05, 0.0002])
def test_a_record_that_trickles_in_does_not_last_longer(certificates: Path, pause: float) -> None:
    over = threading.Event()

    def talk(connection: Connection) -> None:
        with socket.socket(fileno=os.dup(connection.fileno())) as raw:
            raw.sendall(b"\x17\x03\x03\x40\x00")
            while not over.wait(pause):
                raw.sendall(b"x")

    with talking(certificates, talk) as tls:
        tls.settimeout(0.3)
        try:
            with pytest.raises(TimeoutError):
                tls.recv_into(bytearray(10))
        finally:
            over.set()
        assert_that(tls.gettimeout(), Equals(0.3))


def test_the_server_learns_why_its_certificate_is_refused(certificates: Path) -> None:
    seen = []

    def listen(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock, pytest.raises(ssl.SSLError) as caught:
            server_context(certificates, "wrong-host").wrap_socket(sock, server_side=True).recv(1)
        seen.append(str(caught.value).upper())

    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=listen, args=(listener,))
        thread.start()
        with socket.create_connection(listener.getsockname()[:2], timeout=HANGS) as sock:
            with pytest.raises(ssl.SSLCertVerificationError) as refused:
                TlsSocket(sock, context, HOST)
            thread.join(HANGS)
    assert_that(refused.value.verify_message, Contains("IP address mismatch"))
    assert_that(seen[0], Contains("ALERT BAD CERTIFICATE"))


def test_what_comes_behind_an_answer_shows_although_nobody_has_read_it(certificates: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    sent = threading.Event()

    def talk(connection: Connection) -> None:
        connection.sendall(answer + b" and more, unasked")
        sent.set()
        connection.wait_for_close(HANGS)

    with talking(certificates, talk) as tls:
        sent.wait(HANGS)
        assert_that(tls.recv_into(bytearray(len(answer))), Equals(len(answer)))
        assert_that(tls.unread, Equals(True))


def test_the_wire_takes_what_is_there_at_once(certificates: Path) -> None:
    """A hand-over for each record would take as long as decrypting it."""

    def talk(connection: Connection) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA) + DATA)
        connection.finish()

    with talking(certificates, talk) as tls:
        wire = Wire(tls, "https://peer", Limits())  # type: ignore[arg-type]
        wire.read_head()
        pieces = []
        while piece := wire.read1():
            pieces.append(bytes(piece))
        wire.close()
    assert_that(b"".join(pieces) == DATA, Equals(True))
    assert_that(len(pieces), LessThan(len(DATA) // 16384))
