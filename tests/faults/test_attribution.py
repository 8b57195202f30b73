"""What a killed process asked for last is not taken for a request of the next one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

from tests.faults.places import quiet
from tests.servers.tcp import Passage, TcpProxy


class Busy(TcpProxy):
    """A proxy on a busy machine: it accepts nothing until `gate` is open."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.gate = threading.Event()

    def join(self, client: socket.socket, dial: Callable[[], socket.socket]) -> Passage:
        self.gate.wait()
        return super().join(client, dial)


@pytest.fixture
def proxy() -> Iterator[Busy]:
    with socket.create_server(("127.0.0.1", 0)) as server, Busy(*server.getsockname()) as proxy:
        try:
            yield proxy
        finally:
            proxy.gate.set()


def ask(proxy: TcpProxy, what: bytes) -> None:
    """Ask, and be gone at once, as a process is that was killed."""
    with socket.create_connection((proxy.host, proxy.port)) as client:
        client.sendall(what)


def until_open(proxy: Busy, step: Callable[[], None]) -> bool:
    """Whether `step` had to wait for the gate."""
    thread = threading.Thread(target=step)
    thread.start()
    thread.join(0.2)
    waited = thread.is_alive()
    proxy.gate.set()
    thread.join()
    return waited


def test_a_connection_that_was_not_accepted_yet_is_among_those_that_are_forgotten(
    proxy: Busy,
) -> None:
    for each in (b"of a killed process", b"of another one"):
        ask(proxy, each)
    assert_that(until_open(proxy, lambda: quiet(proxy)), Equals(True))
    ask(proxy, b"of the next process")
    proxy.catch_up()
    assert_that(proxy.connections, Equals(1))


def test_who_catches_up_knows_every_connection_of_a_process_that_is_gone(proxy: Busy) -> None:
    for _ in range(20):
        ask(proxy, b"GET / HTTP/1.1\r\n\r\n")
    found: list[int] = []

    def count() -> None:
        proxy.catch_up()
        found.append(proxy.connections)

    assert_that((until_open(proxy, count), found), Equals((True, [20])))


def test_a_proxy_that_refuses_has_nothing_to_catch_up_with(proxy: Busy) -> None:
    proxy.gate.set()
    proxy.refuse()
    proxy.catch_up()
    assert_that(proxy.connections, Equals(0))
    proxy.listen()
    ask(proxy, b"again")
    proxy.catch_up()
    assert_that(proxy.connections, Equals(1))
