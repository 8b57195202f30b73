"""Bodies are read in large blocks where much arrives, without waiting where little does."""

from __future__ import annotations

import fcntl
import os
import socket
import ssl
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan

from imagebroker.backends.backend import Limits
from imagebroker.exceptions import TransferError, TransferTimeout
from imagebroker.http.tls_socket import TlsSocket
from imagebroker.http.wire import Handle, Wire
from tests.bounds import HANGS, in_time
from tests.plugins.http_peers import server_context
from tests.servers.certificates import write_certificates
from tests.servers.process import HOST
from tests.servers.raw import Connection, RawServer

KIB = 1024
MANY = os.urandom(4 * KIB * KIB)
#: Makes the reader expect more of that.
BURST = MANY[: 512 * KIB]

Talk = Callable[[Connection], object]


class Told(socket.socket):
    """A connection that remembers for how many bytes the kernel was told to wait."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.settimeout(HANGS)
        self.connect(address)
        self.waits: list[int] = []

    def setsockopt(self, level: int, option: int, value: Any, *more: Any) -> None:
        if option == socket.SO_RCVLOWAT:
            self.waits.append(value)
        super().setsockopt(level, option, value, *more)


class Peer:
    """A server, and how its clients connect."""

    def __init__(self, certificates: Path | None) -> None:
        """`certificates`: of a server that speaks TLS."""
        self._certificates = certificates

    @contextmanager
    def connected(self, talk: Talk) -> Iterator[tuple[Any, Told]]:
        """A client of a server that does `talk`: its socket, and what that is below TLS."""
        folder = self._certificates
        tls = None if folder is None else server_context(folder, "good")
        server = RawServer(lambda connection, index: talk(connection), tls=tls)
        with server, Told((HOST, server.port)) as sock:
            if folder is None:
                yield sock, sock
            else:
                context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
                yield TlsSocket(sock, context, HOST), sock

    @contextmanager
    def answered(self, talk: Talk, stall_timeout: float = HANGS) -> Iterator[Wire]:
        """An answer whose head was read."""
        with self.connected(talk) as (sock, _):
            yield begun(sock, stall_timeout=stall_timeout)


@pytest.fixture(scope="module", params=["plain", "tls"])
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Peer:
    if request.param == "plain":
        return Peer(None)
    folder = tmp_path_factory.mktemp("tls")
    write_certificates(folder)
    return Peer(folder)


def begun(sock: Any, handle: Handle | None = None, stall_timeout: float = HANGS) -> Wire:
    """An answer on this socket, whose head was read."""
    wire = Wire(sock, "http://peer", Limits(stall_timeout=stall_timeout), handle=handle)
    wire.read_head()
    return wire


def length(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size


def read(wire: Wire, size: int) -> bytes:
    """So many bytes, which may come in several blocks."""
    found = bytearray()
    while len(found) < size:
        piece = wire.read1()
        assert_that(len(piece), GreaterThan(0))
        found += piece
    return bytes(found)


def arrived(sock: socket.socket) -> int:
    """Bytes that the kernel has for the reader."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0])


def test_the_kernel_waits_for_as_much_as_has_been_arriving(peer: Peer) -> None:
    def talk(connection: Connection) -> None:
        connection.sendall(length(len(MANY)) + MANY)
        connection.wait_for_close(HANGS)

    with peer.connected(talk) as (sock, below):
        wire = begun(sock)
        found = bytearray()
        while len(found) < len(MANY) - KIB * KIB:
            while arrived(below) < 40 * KIB:
                sleep(0.001)
            found += wire.read1()
        assert_that(max(below.waits), GreaterThan(32 * KIB))
        assert_that(bytes(found) + read(wire, len(MANY) - len(found)) == MANY, Equals(True))
        assert_that(below.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT), Equals(1))
        assert_that(sock.gettimeout(), Equals(HANGS))


@pytest.mark.parametrize("framed", [True, False])
def test_little_is_handed_on_although_no_more_comes(peer: Peer, framed: bool) -> None:
    go_on = threading.Event()
    words = [b"a", b"few", b"words"]

    def talk(connection: Connection) -> None:
        size = len(BURST) + len(b"".join(words)) + len(BURST)
        connection.sendall(length(size) if framed else b"HTTP/1.1 200 OK\r\n\r\n")
        connection.sendall(BURST)
        for word in words:
            go_on.wait(HANGS)
            go_on.clear()
            connection.sendall(word)
        connection.sendall(BURST)

    with peer.answered(talk) as wire:
        read(wire, len(BURST))
        for word in words[:-1]:
            go_on.set()  # it sends no more before the word has been read
            assert_that(read(wire, len(word)), Equals(word))
        go_on.set()
        assert_that(read(wire, len(words[-1] + BURST)) == words[-1] + BURST, Equals(True))
        assert_that(bytes(wire.read1()), Equals(b""))


def test_a_short_answer_behind_a_long_one_is_not_waited_for(peer: Peer) -> None:
    def talk(connection: Connection) -> None:
        connection.read_head(b"first\n")
        connection.sendall(length(len(BURST)) + BURST)
        connection.read_head(b"second\n")
        connection.sendall(length(2) + b"ok")
        connection.wait_for_close(HANGS)

    with peer.connected(talk) as (sock, _):
        for ask, body in ((b"first\n", BURST), (b"second\n", b"ok")):
            sock.sendall(ask)
            wire = begun(sock)
            assert_that(read(wire, len(body)) == body, Equals(True))
            assert_that(wire.surplus, Equals(False))


def test_chunks_of_any_size_arrive_whole(peer: Peer) -> None:
    sizes = [1, 64 * KIB, 40 * KIB, 300 * KIB, 7, 2 * KIB * KIB]
    started = threading.Event()

    def talk(connection: Connection) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        at = 0
        for size in sizes:
            connection.sendall(b"%x\r\n" % size + MANY[at : at + size])
            started.wait(0.06)  # longer than a moment
            connection.sendall(b"\r\n")
            at += size
        connection.sendall(b"0\r\n\r\n")
        connection.wait_for_close(HANGS)

    with peer.answered(talk) as wire:
        found = bytearray()
        while line := wire.readline().strip():
            if size := int(line, 16):
                found += read(wire, size)
                wire.read1()  # its end
    assert_that(bytes(found) == MANY[: sum(sizes)], Equals(True))


def test_silence_after_much_is_noticed_in_time(peer: Peer) -> None:
    def talk(connection: Connection) -> None:
        connection.sendall(length(len(MANY)) + BURST)
        connection.wait_for_close(HANGS)

    with peer.answered(talk, stall_timeout=0.3) as wire:
        read(wire, len(BURST))
        began = monotonic()
        with pytest.raises(TransferTimeout):
            wire.read1()
    assert_that(monotonic() - began, in_time(0.3))


def test_a_wait_for_more_ends_from_another_thread(peer: Peer) -> None:
    def talk(connection: Connection) -> None:
        connection.sendall(length(len(MANY)) + BURST)
        connection.wait_for_close(HANGS)

    with peer.connected(talk) as (sock, below):
        handle = Handle(below)
        wire = begun(sock, handle)
        read(wire, len(BURST))
        ender = threading.Timer(0.02, handle.abort)
        ender.start()
        with pytest.raises(TransferError, match="closed on our side"):
            wire.read1()
        ender.join()


def test_a_cut_is_noticed_behind_the_bytes_before_it(peer: Peer) -> None:
    def talk(connection: Connection) -> None:
        connection.sendall(length(len(MANY)) + BURST + b"the rest")
        connection.finish()

    with peer.answered(talk) as wire:
        assert_that(read(wire, len(BURST) + 8)[-8:], Equals(b"the rest"))
        with pytest.raises(TransferError, match=f"after {len(BURST) + 8} of {len(MANY)} bytes"):
            wire.read1()
