"""SSH that lies is an error within the limit."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, LessThan, Not

from imagebroker.plugin import ImageBrokerError, NotAuthorized, TransferError, TransferTimeout
from tests.bounds import in_time
from tests.plugins import ssh_peer
from tests.plugins.hostile_sftp import content
from tests.plugins.scp.hostile.fetching import MIB, fetch_from
from tests.plugins.scp_peers import STALL, fetched, make_backend, public_key, ssh_threads
from tests.servers.raw import Connection, RawServer
from tests.servers.sshd import Sshd


def test_an_honest_peer_works(sshd: Sshd, tmp_path: Path) -> None:
    data = fetch_from(ssh_peer.Peer, sshd, tmp_path)
    assert_that(data == content(MIB), Is(True))


@pytest.mark.promise("security-22")
def test_a_server_without_strict_key_exchange_is_refused_by_default(
    sshd: Sshd, tmp_path: Path
) -> None:
    with pytest.raises(TransferError) as caught:
        fetch_from(ssh_peer.WithoutStrictKex, sshd, tmp_path)
    assert_that(caught.value.retryable, Is(False))
    assert_that(caught.value.hint, Contains("require_strict_kex"))
    data = fetch_from(ssh_peer.WithoutStrictKex, sshd, tmp_path, require_strict_kex=False)
    assert_that(data == content(MIB), Is(True))


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (ssh_peer.IgnoredDuringKex, TransferError),
        (ssh_peer.AsksForPasswords, NotAuthorized),
        (ssh_peer.FloodsDuringAuthentication, TransferTimeout),
        (ssh_peer.AnnouncesExtensions, TransferError),
        (ssh_peer.AnnouncesAHugePacket, TransferError),
        (ssh_peer.Overflows, TransferError),
        (ssh_peer.OverflowsWithZeros, TransferError),
        (ssh_peer.NeverOpensTheWindow, TransferTimeout),
    ],
)
def test_what_no_server_should_do_is_an_error_within_the_limit(
    sshd: Sshd, tmp_path: Path, kind: type[ssh_peer.Peer], error: type[ImageBrokerError]
) -> None:
    began = time.monotonic()
    with pytest.raises(error) as caught:
        fetch_from(kind, sshd, tmp_path, stall=STALL)
    assert_that(caught.value.hint, Not(Equals("")))
    assert_that(time.monotonic() - began, in_time(STALL + 1))


@pytest.mark.parametrize(
    ("code", "text", "error"),
    [
        (11, b"down for maintenance", TransferError),
        (11, "\x1b[31m\r\nInjected: \u202e\u0000".encode() + b"\xff" + b"long " * 20_000,
         TransferError),
        (11, b"x" * 1_000_000, TransferError),
        (2, b"Too many authentication failures", NotAuthorized),
        (14, b"No supported authentication methods available", NotAuthorized),
    ],
    ids=["plain", "nasty", "1 MB", "too many failures", "no methods"],
)  # fmt: skip
def test_what_a_server_says_when_it_disconnects_is_shown_in_short(
    sshd: Sshd, tmp_path: Path, code: int, text: bytes, error: type[ImageBrokerError],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    kind = type("Disconnecting", (ssh_peer.Disconnects,), {"code": code, "text": text})
    with caplog.at_level("DEBUG", logger="imagebroker_scp"), pytest.raises(error) as caught:
        fetch_from(kind, sshd, tmp_path)
    for shown in (str(caught.value), *(r.getMessage() for r in caplog.records
                                       if r.name.startswith("imagebroker"))):  # fmt: skip
        assert_that(len(shown), LessThan(1025))
        assert_that(shown.isprintable(), Is(True))


@pytest.mark.parametrize(
    "greeting",
    [
        b"SSH-1.99-old\r\n", b"SSH-1.5-older\r\n", b"SSH-2.0-\x1b[31mred\r\n",
        b"SSH-2.0-" + b"x" * 1000 + b"\r\n", b"x" * 10_000_000, b"line\r\n" * 100_000,
        b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\r\n" * 200, b"SSH-2.0-x\r\n" + b"\0" * 40,
        b"SSH-2.0-x\r\n" + b"\xff" * 40, b"SSH-2.0-x\r\n\0\0\0\x0c\x0a\x14" + b"\0" * 40,
        b"SSH-2.0-x\r\n\0\0\0\x0c\xff\x14" + b"\0" * 40, "SSH-2.0-é\r\n".encode("latin-1"),
    ],
    ids=lambda greeting: repr(greeting[:24]),
)  # fmt: skip
def test_a_greeting_that_is_not_ssh_2_is_a_transfer_error(
    sshd: Sshd, tmp_path: Path, greeting: bytes
) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.sendall(greeting)

    with RawServer(script) as server:
        (tmp_path / "known").write_text(f"[127.0.0.1]:* {public_key(sshd.key)}\n")
        backend = make_backend(
            stall=STALL, known_hosts=str(tmp_path / "known"), identity_file=str(sshd.key)
        )
        with pytest.raises(TransferError) as caught:
            fetched(f"scp://u@127.0.0.1:{server.port}/x", backend)
    assert_that(str(caught.value).isprintable(), Is(True))
    assert_that(len(str(caught.value)), LessThan(600))
    assert_that(ssh_threads(), Equals([]))


@pytest.mark.parametrize("line", [b"", b"SSH-2.0-x", b"hello\r\n", b"SSH-2.0-x\r\n\0\0\4\4"])
def test_a_trickle_instead_of_a_greeting_ends_within_the_limit(
    sshd: Sshd, tmp_path: Path, line: bytes
) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.sendall(line)
        connection.send_slowly(b"x" * 1000, 0.05)

    with RawServer(script) as server:
        (tmp_path / "known").write_text(f"[127.0.0.1]:* {public_key(sshd.key)}\n")
        backend = make_backend(
            stall=STALL, known_hosts=str(tmp_path / "known"), identity_file=str(sshd.key)
        )
        began = time.monotonic()
        with pytest.raises(TransferTimeout):
            fetched(f"scp://u@127.0.0.1:{server.port}/x", backend)
    assert_that(time.monotonic() - began, in_time(STALL + 1))
