"""Connections that stall or break off at any byte."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

from imagebroker.plugin import ImageBrokerError, TransferError, TransferTimeout
from tests.bounds import SLACK
from tests.plugins.scp.hostile.fetching import KIB
from tests.plugins.scp_peers import STALL, fetched, make_backend, public_key, ssh_threads
from tests.servers.images import random_file
from tests.servers.sshd import Sshd
from tests.servers.tcp import Fault, TcpProxy


@pytest.fixture
def proxied(sshd: Sshd, tmp_path: Path) -> Callable[[Fault], bytes]:
    """Fetches one file through a proxy with a fault."""
    image = random_file(tmp_path / "image", 100 * KIB)
    key = public_key(sshd.host_keys["ed25519"])
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:* {key}\n")
    backend = make_backend(sshd, stall=STALL, known_hosts=str(known))

    def fetch(fault: Fault) -> bytes:
        with TcpProxy("127.0.0.1", sshd.port, fault) as proxy:
            return fetched(f"scp://{sshd.user}@127.0.0.1:{proxy.port}{image}", backend)

    return fetch


def conversation_length(sshd: Sshd, tmp_path: Path) -> int:
    """How many bytes the server sends for the file of `proxied`."""
    with TcpProxy("127.0.0.1", sshd.port) as proxy:
        known = tmp_path / "known"
        known.write_text(f"[127.0.0.1]:* {public_key(sshd.host_keys['ed25519'])}\n")
        url = f"scp://{sshd.user}@127.0.0.1:{proxy.port}{tmp_path}/image"
        fetched(url, make_backend(sshd, known_hosts=str(known)))
        return proxy.received


def offsets(total: int, count: int) -> list[int]:
    """Places in a conversation: densely where the talk is, sparsely in the data."""
    talk = total - 100 * KIB
    early = [talk * step // count for step in range(count)]
    return sorted({0, 1, *early, talk + 50 * KIB, total - 400})


@pytest.mark.promise("time-limits")
def test_a_stall_at_any_byte_ends_within_the_limit(
    sshd: Sshd, tmp_path: Path, proxied: Callable[[Fault], bytes]
) -> None:
    def stalled(offset: int) -> tuple[int, str, bool]:
        began = time.monotonic()
        try:
            proxied(Fault(stall_after=offset))
        except TransferTimeout:
            in_limit = time.monotonic() - began < SLACK * (STALL + 1)
            return offset, "timeout", in_limit
        except ImageBrokerError as error:
            return offset, repr(error), False
        return offset, "done", False

    places = offsets(conversation_length(sshd, tmp_path), 24)
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(stalled, places))
    assert_that([each for each in outcomes if each[1:] != ("timeout", True)], Equals([]))
    assert_that(ssh_threads(), Equals([]))


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
def test_a_connection_that_ends_at_any_byte_is_a_transfer_error(
    sshd: Sshd, tmp_path: Path, proxied: Callable[[Fault], bytes], reset: bool
) -> None:
    def cut(offset: int) -> tuple[int, str]:
        try:
            proxied(Fault(cut_after=offset, reset=reset))
        except TransferError as error:
            return offset, "" if error.hint and error.retryable else repr(error)
        except ImageBrokerError as error:
            return offset, repr(error)
        return offset, "done"

    places = offsets(conversation_length(sshd, tmp_path), 60)
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(cut, places))
    assert_that([each for each in outcomes if each[1]], Equals([]))
    assert_that(ssh_threads(), Equals([]))


def test_a_slow_connection_is_not_taken_for_a_dead_one(
    proxied: Callable[[Fault], bytes], tmp_path: Path
) -> None:
    data = proxied(Fault(rate=60_000))
    assert_that(data == (tmp_path / "image").read_bytes(), Is(True))
