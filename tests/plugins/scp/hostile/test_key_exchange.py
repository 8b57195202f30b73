"""Key exchanges in the middle of a transfer."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from imagebroker_scp.key_lifetime import KeyLifetime
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan, Is

from imagebroker.plugin import TransferError
from tests.bounds import in_time
from tests.plugins import ssh_peer
from tests.plugins.hostile_sftp import content
from tests.plugins.scp.hostile.fetching import MIB, fetch_from
from tests.plugins.scp_peers import STALL, fetched, make_backend, opened, public_key, ssh_threads
from tests.servers.images import random_file
from tests.servers.raw import Connection, RawServer
from tests.servers.sshd import Sshd

#: Of ours: new ones are due soon.
SHORT_LIVED = KeyLifetime(MIB)


def test_a_server_that_exchanges_keys_every_mebibyte_is_fine(tmp_path: Path) -> None:
    image = random_file(tmp_path / "image", 24 * MIB)
    with Sshd(settings=["RekeyLimit 1M", "LogLevel DEBUG1"]) as server:
        data = fetched(server.url(image), make_backend(server, stall=5))
        exchanges = server.log.read_text().count("SSH2_MSG_NEWKEYS received")
    assert_that(data == image.read_bytes(), Is(True))
    assert_that(exchanges, GreaterThan(4))


def test_our_own_key_exchanges_are_fine(sshd: Sshd, tmp_path: Path) -> None:
    image = random_file(tmp_path / "image", 48 * MIB)
    data = fetched(sshd.url(image), make_backend(sshd, stall=5, keys=SHORT_LIVED))
    assert_that(data == image.read_bytes(), Is(True))


def test_a_question_during_our_key_exchange_does_not_block_it(sshd: Sshd, tmp_path: Path) -> None:
    data = fetch_from(ssh_peer.AsksDuringRekeying, sshd, tmp_path, keys=SHORT_LIVED)
    assert_that(data == content(8 * MIB), Is(True))


def test_a_server_that_ignores_our_key_exchange_is_a_transfer_error(
    sshd: Sshd, tmp_path: Path
) -> None:
    began = time.monotonic()
    with pytest.raises(TransferError):
        fetch_from(ssh_peer.IgnoresRekeying, sshd, tmp_path, keys=SHORT_LIVED, stall=STALL)
    assert_that(time.monotonic() - began, in_time(STALL + 1))


@pytest.mark.promise("security-22")
def test_a_server_that_gives_up_gcm_in_a_key_exchange_is_a_transfer_error(
    sshd: Sshd, tmp_path: Path
) -> None:
    with pytest.raises(TransferError, match="stopped using AES-GCM"):
        fetch_from(ssh_peer.GivesUpGcm, sshd, tmp_path, keys=SHORT_LIVED)


@pytest.mark.promise("security-22")
def test_data_in_the_middle_of_a_key_exchange_are_a_transfer_error(
    sshd: Sshd, tmp_path: Path
) -> None:
    with pytest.raises(TransferError):
        fetch_from(ssh_peer.SendsDuringRekeying, sshd, tmp_path, keys=SHORT_LIVED)


@pytest.mark.promise("security-22")
def test_a_packet_that_was_changed_on_its_way_is_a_transfer_error(
    sshd: Sshd, tmp_path: Path
) -> None:
    image = random_file(tmp_path / "image", MIB)
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:* {public_key(sshd.host_keys['ed25519'])}\n")
    for place in (40_000, 500_000, 1_000_000):
        with altering_proxy(sshd.port, place) as port:
            with pytest.raises(TransferError) as caught:
                fetched(
                    f"scp://{sshd.user}@127.0.0.1:{port}{image}",
                    make_backend(sshd, stall=STALL, known_hosts=str(known)),
                )
            assert_that(caught.value.retryable, Is(True))
    assert_that(ssh_threads(), Equals([]))


@contextmanager
def altering_proxy(port: int, place: int) -> Iterator[int]:
    """The port of a proxy that flips one bit in what the server sends."""

    def script(connection: Connection, index: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server:

            def upload() -> None:
                try:
                    while data := connection.recv(65536):
                        server.sendall(data)
                    server.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # one of them has hung up

            thread = threading.Thread(target=upload)
            thread.start()
            sent = 0
            try:
                while data := bytearray(server.recv(65536)):
                    if sent <= place < sent + len(data):
                        data[place - sent] ^= 1
                    connection.sendall(data)
                    sent += len(data)
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the client has had enough
            thread.join()

    with RawServer(script) as proxy:
        yield proxy.port


slow = pytest.mark.skipif(
    os.environ.get("IMAGEBROKER_SLOW_TESTS") != "1",
    reason="moves 5 GiB: set IMAGEBROKER_SLOW_TESTS=1",
)


@pytest.mark.parametrize(
    ("gibibytes", "ours", "theirs"),
    [
        pytest.param(5, KeyLifetime().due, "default", marks=slow),
        pytest.param(5, 1 << 29, "default", marks=slow),  # as often as paramiko by itself
        pytest.param(5, 1 << 25, "default", marks=slow),
        pytest.param(5, KeyLifetime().due, "1M", marks=slow),
        pytest.param(5, 1 << 25, "16M", marks=slow),
        (0.25, 1 << 25, "16M"),
    ],
)
def test_gibibytes_come_over_one_connection_whoever_wants_new_keys(
    tmp_path: Path, gibibytes: float, ours: int, theirs: str
) -> None:
    image, expected = marked_file(tmp_path / "image", int(gibibytes * 1024) * MIB)
    found = hashlib.sha256()
    settings = [f"RekeyLimit {theirs}", "LogLevel DEBUG1"]
    with Sshd(settings=settings) as server:
        with opened(server.url(image), make_backend(server, keys=KeyLifetime(ours))) as source:
            for piece in source.read():
                found.update(piece)
        exchanges = server.log.read_text().count("SSH2_MSG_NEWKEYS received")
    assert_that(found.hexdigest(), Equals(expected))
    assert_that(exchanges, GreaterThan(image.stat().st_size // (ours + 100 * MIB)))


def marked_file(path: Path, size: int) -> tuple[Path, str]:
    """A sparse file that is different in every MiB, and its sha256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        file.truncate(size)
        for offset in range(0, size, MIB):
            mark = offset.to_bytes(8, "big")
            file.seek(offset)
            file.write(mark)
            digest.update(mark + bytes(MIB - 8))
    return path, digest.hexdigest()
