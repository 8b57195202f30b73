"""Strong algorithms are spoken and weak ones refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Is

from imagebroker.plugin import TransferError
from tests.plugins.scp.endpoint import log_of
from tests.plugins.scp_peers import fetched, make_backend
from tests.servers.sshd import Sshd


@pytest.mark.promise("security-22")
@pytest.mark.parametrize(
    "how",
    [
        {"ciphers": "aes128-cbc,aes256-cbc,3des-cbc"},
        {"macs": "hmac-md5,hmac-sha1-96,hmac-sha1,umac-64@openssh.com", "ciphers": "aes128-ctr"},
        {"kex": "diffie-hellman-group14-sha1,diffie-hellman-group1-sha1"},
        {"settings": ["HostKeyAlgorithms ssh-rsa"]},
        {"ciphers": "chacha20-poly1305@openssh.com"},
    ],
    ids=["cbc", "weak macs", "sha1 kex", "ssh-rsa", "chacha20"],
)
def test_weak_or_unknown_algorithms_are_refused(
    another_sshd: Callable[..., Sshd], image: Path, how: dict[str, Any]
) -> None:
    server = another_sshd(**how)
    with pytest.raises(TransferError) as caught:
        fetched(server.url(image), make_backend(server))
    assert_that(caught.value.retryable, Is(False))
    assert_that(caught.value.hint, Contains("algorithms"))


@pytest.mark.parametrize(
    "how",
    [
        {"ciphers": "aes256-gcm@openssh.com"},
        {"ciphers": "aes128-ctr", "macs": "hmac-sha2-256-etm@openssh.com"},
        {"ciphers": "aes256-ctr", "macs": "hmac-sha2-512"},
        {"kex": "ecdh-sha2-nistp384"},
        {"kex": "diffie-hellman-group16-sha512"},
        {"kex": "diffie-hellman-group-exchange-sha256"},
        {"settings": ["HostKeyAlgorithms rsa-sha2-512"]},
        {"settings": ["HostKeyAlgorithms rsa-sha2-256"]},
    ],
    ids=lambda how: str(next(iter(how.values()))),
)
def test_strong_algorithms_are_spoken(
    another_sshd: Callable[..., Sshd], image: Path, how: dict[str, Any]
) -> None:
    server = another_sshd(**how)
    assert_that(fetched(server.url(image), make_backend(server)), Equals(image.read_bytes()))


def test_gcm_is_preferred_and_nothing_is_compressed(
    another_sshd: Callable[..., Sshd], image: Path
) -> None:
    server = another_sshd(settings=["LogLevel DEBUG1", "Compression yes"])
    fetched(server.url(image), make_backend(server))
    chosen = [line for line in log_of(server).splitlines() if "kex: server->client" in line]
    assert_that(chosen, HasLength(1))
    assert_that(chosen[0], Contains("aes128-gcm@openssh.com"))
    assert_that(chosen[0], Contains("compression: none"))
