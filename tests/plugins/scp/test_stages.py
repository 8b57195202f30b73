"""The scp backend at each stage of the SSH protocol: offers, silence, hang-ups, windows, old keys."""

from __future__ import annotations

import os
import signal
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from imagebroker_scp import ScpBackend, packets
from imagebroker_scp.key_lifetime import DEFAULT, KeyLifetime
from oslo_config import cfg
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, LessThan, Not

from imagebroker.plugin import PolicyViolation, TransferError, TransferTimeout
from tests.bounds import in_time
from tests.plugins import ssh_peer
from tests.plugins.hostile_sftp import content
from tests.plugins.scp_peers import STALL, fetched, make_backend, opened, public_key, ssh_threads
from tests.servers.images import random_file
from tests.servers.raw import Connection, RawServer
from tests.servers.sshd import Sshd

MIB = 1024 * 1024


def fetch_from(
    kind: type[ssh_peer.Peer],
    sshd: Sshd,
    folder: Path,
    /,
    *,
    stall: float = 10,
    keys: KeyLifetime = DEFAULT,
    **how: Any,
) -> bytes:
    """The file of such a server; `how` sets attributes of its class."""
    scripted = type(kind.__name__, (kind,), how)
    with ssh_peer.ssh_server(scripted, folder) as (url, known):
        backend = make_backend(stall=stall, keys=keys, identity_file=str(sshd.key), **known)
        return fetched(f"{url}/image", backend)


# What a server offers

OFFER = {
    "kex": "curve25519-sha256,kex-strict-s-v00@openssh.com",
    "host key": "ssh-ed25519",
    "cipher": "aes128-gcm@openssh.com,aes128-ctr",
    "mac": "hmac-sha2-256",
    "compression": "none",
}


def key_exchange_offer(**changed: str) -> bytes:
    """A server's KEXINIT, as it is sent in the clear."""
    offer = {**OFFER, **{name.replace("_", " "): value for name, value in changed.items()}}
    both = ("cipher", "mac", "compression")
    lists = [offer["kex"], offer["host key"], *(offer[name] for name in both for _ in "12"), "", ""]
    payload = b"\x14" + bytes(16)
    for each in lists:
        payload += struct.pack(">I", len(each)) + each.encode()
    payload += bytes(5)
    padding = 16 - (len(payload) + 5) % 8
    return struct.pack(">IB", len(payload) + padding + 1, padding) + payload + bytes(padding)


@pytest.mark.promise("security-22")
@pytest.mark.parametrize(
    "offer",
    [
        {"host_key": "ssh-rsa"}, {"host_key": "ssh-dss"}, {"host_key": "ssh-rsa,ssh-dss"},
        {"host_key": "ssh-rsa-cert-v01@openssh.com"},
        {"cipher": "aes128-cbc,aes256-cbc,3des-cbc,blowfish-cbc"}, {"cipher": "arcfour,none"},
        {"cipher": "aes128-ctr", "mac": "hmac-md5"},
        {"cipher": "aes128-ctr", "mac": "hmac-sha1-96,hmac-md5-96"},
        {"cipher": "aes128-ctr", "mac": "hmac-sha1,none"},
        {"kex": "diffie-hellman-group1-sha1,diffie-hellman-group14-sha1"},
        {"kex": "diffie-hellman-group-exchange-sha1"},
        {"compression": "zlib,zlib@openssh.com"},
    ],
    ids=lambda offer: "; ".join(offer.values()),
)  # fmt: skip
def test_a_server_that_offers_only_what_is_weak_or_compressed_is_refused(
    sshd: Sshd, tmp_path: Path, offer: dict[str, str]
) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.sendall(b"SSH-2.0-test\r\n" + key_exchange_offer(**offer))
        connection.wait_for_close(5)

    with RawServer(script) as server:
        (tmp_path / "known").write_text(f"[127.0.0.1]:* {public_key(sshd.key)}\n")
        backend = make_backend(known_hosts=str(tmp_path / "known"), identity_file=str(sshd.key))
        with pytest.raises(TransferError) as caught:
            fetched(f"scp://user@127.0.0.1:{server.port}/x", backend)
    assert_that(caught.value.retryable, Is(False))
    assert_that(caught.value.hint, Contains("algorithms"))
    assert_that(b"".join(server.received), Not(Contains(b"user")))


@pytest.mark.promise("security-21")
@pytest.mark.parametrize(
    "option",
    [each.dest for each in ScpBackend.options if isinstance(each, cfg.BoolOpt)],
)
def test_no_option_lets_an_unknown_host_pass(sshd: Sshd, tmp_path: Path, option: str) -> None:
    defaults = {each.dest: each.default for each in ScpBackend.options}
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{sshd.port} {public_key(sshd.strange_key)}\n")
    for file in (str(known), "/nonexistent"):
        backend = make_backend(sshd, known_hosts=file, **{option: not defaults[option]})
        with pytest.raises(PolicyViolation):
            fetched(sshd.url("/x"), backend)


def test_a_name_that_resolves_to_a_forbidden_address_gets_no_packet(
    sshd: Sshd, tmp_path: Path
) -> None:
    with RawServer(lambda connection, index: None) as server:
        (tmp_path / "known").write_text(f"[localhost]:* {public_key(sshd.key)}\n")
        backend = make_backend(sshd, reach="10.0.0.0/8", known_hosts=str(tmp_path / "known"))
        with pytest.raises(PolicyViolation):
            fetched(f"scp://u@localhost:{server.port}/x", backend)
    assert_that(server.connections, Equals([]))


# Silence and hang-ups

#: The message of the server with which each stage ends (RFC 4250, section 4.1).
STAGES = {
    "key exchange offered": 20, "keys exchanged": 31, "new keys": 21, "service accepted": 6,
    "logged in": 52, "channel opened": 91, "subsystem started": 99, "SFTP version": 94,
}  # fmt: skip


@pytest.mark.promise("time-limits")
@pytest.mark.parametrize("stage", STAGES)
def test_silence_at_a_stage_ends_within_the_limit(sshd: Sshd, tmp_path: Path, stage: str) -> None:
    began = time.monotonic()
    with pytest.raises(TransferTimeout):
        fetch_from(ssh_peer.StopsAt, sshd, tmp_path, stall=STALL, kind=STAGES[stage])
    assert_that(time.monotonic() - began, in_time(STALL + 1))  # and the time until then
    assert_that(ssh_threads(), Equals([]))


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_hang_up_at_a_stage_is_a_transfer_error(
    sshd: Sshd, tmp_path: Path, stage: str, reset: bool
) -> None:
    with pytest.raises(TransferError) as caught:
        fetch_from(
            ssh_peer.StopsAt, sshd, tmp_path, kind=STAGES[stage], hangs_up=True, resets=reset
        )
    assert_that(isinstance(caught.value, TransferTimeout), Is(False))
    assert_that(caught.value.hint, Not(Equals("")))
    assert_that(ssh_threads(), Equals([]))


def test_a_hang_up_before_any_packet_of_the_server_is_a_transfer_error(
    sshd: Sshd, tmp_path: Path
) -> None:
    total = 0

    class Counts(ssh_peer.Peer):
        scenario = {"real_size": 200_000}

        def _send_message(self, data: Any) -> None:
            nonlocal total
            total += 1
            super()._send_message(data)  # type: ignore[misc]

    scenario = Counts.scenario
    assert_that(fetch_from(Counts, sshd, tmp_path), Equals(content(200_000)))
    for number in range(total - 1):  # the last says goodbye to a client that is gone
        how = {"number": number, "hangs_up": True, "scenario": scenario}
        with pytest.raises(TransferError) as caught:
            fetch_from(ssh_peer.StopsAt, sshd, tmp_path, **how)
        assert_that(isinstance(caught.value, TransferTimeout), Is(False), str(number))
    assert_that(ssh_threads(), Equals([]))


@pytest.mark.promise("time-limits")
def test_a_host_that_freezes_in_the_middle_of_the_data_ends_within_the_limit(
    tmp_path: Path,
) -> None:
    image = random_file(tmp_path / "image", 32 * MIB)
    with Sshd() as server, opened(server.url(image), make_backend(server, stall=STALL)) as source:
        reading = source.read()
        next(reading)
        frozen = server.session_pids()
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(TransferTimeout):
                for _ in reading:
                    pass
            assert_that(time.monotonic() - began, in_time(STALL + 1))
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
    assert_that(ssh_threads(), Equals([]))


# Windows


def test_a_window_that_is_opened_by_nothing_ends_within_the_limit(
    sshd: Sshd, tmp_path: Path
) -> None:
    with pytest.raises(TransferTimeout):
        fetch_from(ssh_peer.OpensTheWindowByNothing, sshd, tmp_path, stall=STALL)


@pytest.mark.promise("security-22")
def test_a_packet_larger_than_was_agreed_is_a_transfer_error(sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="limits"):
        fetch_from(ssh_peer.SendsLargePackets, sshd, tmp_path)


def test_the_largest_window_that_can_be_written_is_none_too_large(
    sshd: Sshd, tmp_path: Path
) -> None:
    data = fetch_from(ssh_peer.OpensTheWindowFarTooWide, sshd, tmp_path)
    assert_that(data == content(MIB), Is(True))


# Keys that grow old


@pytest.mark.promise("security-22")
def test_a_server_that_goes_on_without_new_keys_is_hung_up_on(sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="new keys"):
        fetch_from(ssh_peer.IgnoresRekeying, sshd, tmp_path, keys=KeyLifetime(MIB, MIB))


def test_the_limit_of_one_key_is_that_of_openssh_or_less() -> None:
    assert_that(KeyLifetime().due // 16, LessThan(2**32 + 1))
    assert_that(packets.Packets.REKEY_PACKETS, LessThan(2**31 + 1))


# Shells in the way


@pytest.mark.parametrize("command", ["/bin/echo Welcome", "/bin/false", "/nonexistent"])
def test_an_account_whose_shell_allows_no_sftp_is_a_transfer_error(
    tmp_path: Path, command: str
) -> None:
    with Sshd(sftp=False, settings=[f"ForceCommand {command}", "Subsystem sftp x"]) as server:
        for legacy in (False, True):
            with pytest.raises(TransferError) as caught:
                fetched(server.url(tmp_path / "x"), make_backend(server, legacy_scp=legacy))
            assert_that(caught.value.hint, Not(Equals("")))
