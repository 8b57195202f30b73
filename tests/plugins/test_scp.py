"""The scp backend against OpenSSH's sshd."""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from imagebroker_scp import ScpBackend
from testtools.assertions import assert_that
from testtools.matchers import (
    Contains,
    EndsWith,
    Equals,
    GreaterThan,
    HasLength,
    Is,
    LessThan,
    MatchesStructure,
    Not,
    StartsWith,
)

import imagebroker
from imagebroker.model.reference import parse
from imagebroker.plugin import (
    ConfigError,
    Conflict,
    Image,
    ImageBrokerError,
    ImageChanged,
    ImageData,
    ImageNotFound,
    ImageQuery,
    InvalidImageRef,
    NotAuthorized,
    PolicyViolation,
    TransferError,
    UnsupportedOperation,
    UploadFailed,
)
from tests.plugins.scp_peers import (
    closed_port,
    configuration,
    fetched,
    hashed_name,
    make_backend,
    open_sockets,
    opened,
    public_key,
    ssh_threads,
)
from tests.servers.images import random_file
from tests.servers.raw import RawServer
from tests.servers.sshd import Sshd
from tests.servers.tcp import NO_FAULT, Fault, TcpProxy

MIB = 1024 * 1024


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return random_file(tmp_path / "image.raw", 3 * MIB + 17)


@pytest.fixture
def another_sshd() -> Iterator[Callable[..., Sshd]]:
    """Starts sshds with settings of their own; ended with the test."""
    running: list[Sshd] = []

    def start(**how: Any) -> Sshd:
        server = Sshd(**how)
        server.start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.stop()


def log_of(server: Sshd) -> str:
    return server.log.read_text(errors="replace")


# What comes over the wire


def test_bytes_and_record_are_those_of_the_file(sshd: Sshd, image: Path) -> None:
    os.utime(image, (0, 1_700_000_000))
    with opened(sshd.url(image), make_backend(sshd)) as source:
        data = b"".join(bytes(chunk) for chunk in source.read())
    assert_that(data, Equals(image.read_bytes()))
    assert_that(
        source.image,
        MatchesStructure.byEquality(
            ref=sshd.url(image),
            id=None,
            name="image.raw",
            status="active",
            size=3 * MIB + 17,
            updated_at=datetime.fromtimestamp(1_700_000_000, UTC),
            version=None,
        ),
    )


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 0), (0, 1), (1, None), (MIB - 1, 2 * MIB + 1), (3 * MIB + 17, None)]
)
def test_any_stretch_can_be_read(sshd: Sshd, image: Path, start: int, stop: int | None) -> None:
    data = fetched(sshd.url(image), make_backend(sshd), start, stop)
    assert_that(data, Equals(image.read_bytes()[start:stop]))


def test_an_empty_file_has_no_bytes_and_size_0(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with opened(sshd.url(tmp_path / "empty"), make_backend(sshd)) as source:
        assert_that(list(source.read()), Equals([]))
    assert_that(source.image.size, Equals(0))


def test_a_source_can_be_read_again_after_a_read_was_left_early(sshd: Sshd, image: Path) -> None:
    with opened(sshd.url(image), make_backend(sshd)) as source:
        for _ in range(3):
            reading = source.read(1000)
            first = bytes(next(reading))
            reading.close()
            assert_that(image.read_bytes()[1000:], StartsWith(first))
        assert_that(b"".join(map(bytes, source.read())), Equals(image.read_bytes()))


def test_a_yielded_chunk_is_not_changed_afterwards(sshd: Sshd, image: Path) -> None:
    with opened(sshd.url(image), make_backend(sshd)) as source:
        chunks = list(source.read())
    assert_that(b"".join(map(bytes, chunks)), Equals(image.read_bytes()))


@pytest.mark.parametrize(
    "name",
    [
        b"\xff\xfe not utf-8 \x80", b"it's \"quoted\"", b"`touch marker`", b"$(touch marker)",
        b"a * b ? [c]", b"~", b"-oProxyCommand=touch marker", b"; touch marker", b"tab\there",
        b"per%41cent", "é".encode(), "e\u0301".encode(), b"...", b"new \x1b[31m",
    ],
)  # fmt: skip
def test_a_path_is_sent_byte_for_byte_and_means_itself(
    sshd: Sshd, tmp_path: Path, name: bytes
) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    with open(path, "wb") as file:
        file.write(b"the right one")
    url = sshd.url("") + "".join(f"%{byte:02X}" if byte != 0x2F else "/" for byte in path)
    assert_that(fetched(url, make_backend(sshd)), Equals(b"the right one"))
    assert_that(os.listdir(os.fsencode(tmp_path)), Equals([name]))


@pytest.mark.parametrize("escape", ["%00", "%0d", "%0a", "%0D%0A"])
def test_nul_and_line_ends_in_a_path_are_refused(
    make_broker: Callable[..., imagebroker.Broker], escape: str
) -> None:
    with RawServer(lambda connection, index: None) as server:
        broker = make_broker(configuration(known_hosts="/none"))
        with pytest.raises(InvalidImageRef):
            broker.get(None, f"scp://u@127.0.0.1:{server.port}/a{escape}b")
    assert_that(server.connections, Equals([]))


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("directory", PolicyViolation), ("fifo", PolicyViolation), ("device", PolicyViolation),
        ("missing", ImageNotFound), ("below-a-file", ImageNotFound), ("loop", ImageNotFound),
        ("dangling", ImageNotFound),
    ],
)  # fmt: skip
def test_only_regular_files_are_opened(
    sshd: Sshd, tmp_path: Path, kind: str, error: type[ImageBrokerError]
) -> None:
    path = tmp_path / kind
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "below-a-file":
        (tmp_path / "file").touch()
        path = tmp_path / "file" / "image"
    elif kind in ("loop", "dangling"):
        path.symlink_to(path if kind == "loop" else "nowhere")
    with pytest.raises(error) as caught:
        fetched(sshd.url(path), make_backend(sshd))
    assert_that(caught.value.hint, Not(Equals("")))


def test_the_server_follows_links_to_files(sshd: Sshd, tmp_path: Path, image: Path) -> None:
    (tmp_path / "link").symlink_to(image)
    data = fetched(sshd.url(tmp_path / "link"), make_backend(sshd))
    assert_that(data, Equals(image.read_bytes()))


@pytest.mark.parametrize("denied", ["open", "stat", "fstat"])
def test_what_the_server_denies_is_not_authorized(
    another_sshd: Callable[..., Sshd], image: Path, denied: str
) -> None:
    server = another_sshd(sftp=False, settings=[f"Subsystem sftp internal-sftp -P {denied}"])
    with pytest.raises(NotAuthorized):
        fetched(server.url(image), make_backend(server))


# Changes while it is read


@pytest.mark.parametrize("change", ["shorter", "longer", "touched"])
def test_a_file_that_changes_while_it_is_read_is_image_changed(
    sshd: Sshd, tmp_path: Path, change: str
) -> None:
    path = random_file(tmp_path / "image", 20 * MIB)
    os.utime(path, (0, 1_700_000_000))
    with opened(sshd.url(path), make_backend(sshd)) as source:
        reading = source.read()
        next(reading)
        if change == "touched":
            os.utime(path, (0, 1_700_000_001))
        else:
            os.truncate(path, 8 * MIB if change == "shorter" else 30 * MIB)
        with pytest.raises(ImageChanged):
            for _ in reading:
                pass
        with pytest.raises(ImageChanged):  # still, over a new connection
            next(source.read(MIB))


def test_a_file_that_is_replaced_while_it_is_read_is_read_to_its_end(
    sshd: Sshd, tmp_path: Path
) -> None:
    path = random_file(tmp_path / "image", 12 * MIB)
    before = path.read_bytes()
    with opened(sshd.url(path), make_backend(sshd)) as source:
        reading = source.read()
        data = [bytes(next(reading))]
        random_file(tmp_path / "new", MIB, seed=1).replace(path)
        data += map(bytes, reading)
    assert_that(b"".join(data), Equals(before))


def test_a_file_whose_size_the_server_does_not_know_is_refused(sshd: Sshd) -> None:
    with pytest.raises(ImageChanged) as caught:
        fetched(sshd.url("/proc/version"), make_backend(sshd))
    assert_that(caught.value.hint, Contains("/proc"))


def test_after_a_broken_connection_the_same_source_reads_on(sshd: Sshd, tmp_path: Path) -> None:
    path = random_file(tmp_path / "image", 20 * MIB)
    with TcpProxy("127.0.0.1", sshd.port) as proxy:
        known = tmp_path / "known_hosts"
        known.write_text(f"[127.0.0.1]:{proxy.port} {public_key(sshd.host_keys['ed25519'])}\n")
        url = f"scp://{sshd.user}@127.0.0.1:{proxy.port}{path}"
        with opened(url, make_backend(sshd, known_hosts=str(known))) as source:
            data = bytearray()

            def read_until_cut() -> None:
                for chunk in source.read():
                    data.extend(chunk)
                    if len(data) > MIB:
                        proxy.cut_all()

            with pytest.raises(TransferError):
                read_until_cut()
            assert_that(len(data), LessThan(20 * MIB))
            for chunk in source.read(len(data)):
                data += chunk
    assert_that(bytes(data) == path.read_bytes(), Is(True))
    assert_that(proxy.connections, Equals(2))


# Who is there: host keys


def known_hosts_line(server: Sshd, kind: str = "ed25519") -> str:
    return f"[127.0.0.1]:{server.port} {public_key(server.host_keys[kind])}"


def with_known_hosts(server: Sshd, tmp_path: Path, *lines: str) -> Any:
    file = tmp_path / "known_hosts"
    file.write_text("".join(f"{line}\n" for line in lines))
    return make_backend(server, known_hosts=str(file))


def lines_that_know(server: Sshd) -> dict[str, str]:
    name, key = f"[127.0.0.1]:{server.port}", public_key(server.host_keys["ed25519"])
    return {
        "plain": f"{name} {key}",
        "with a comment": f"{name}\t{key}   root@somewhere else",
        "several names": f"one,two,{name} {key}",
        "hashed": f"{hashed_name(name)} {key}",
        "without a port": f"127.0.0.1 {key}",
        "wildcard": f"[127.0.*]:{server.port} {key}",
        "question mark": f"[127.0.0.?]:* {key}",
        "negation of another": f"!127.0.0.2,[127.0.0.1]:* {key}",
        "another's key too": f"{name} {public_key(server.strange_key)}\n{name} {key}",
        "malformed lines around": f"nonsense\n{name} ssh-ed25519 !!!\n{name} {key}\n1024 35 17",
        "other types unknown here": f"{name} ssh-dss AAAAB3NzaC1kc3MAAACB\n{name} {key}",
        "authority beside it": f"@cert-authority * {public_key(server.strange_key)}\n{name} {key}",
        "revoked is another key": f"@revoked * {public_key(server.strange_key)}\n{name} {key}",
        "revoked elsewhere": f"@revoked example.org {key}\n{name} {key}",
        "rsa only": f"{name} {public_key(server.host_keys['rsa'])}",
    }


def lines_that_refuse(server: Sshd) -> dict[str, str]:
    name, key = f"[127.0.0.1]:{server.port}", public_key(server.host_keys["ed25519"])
    return {
        "empty file": "",
        "other port": f"[127.0.0.1]:{server.port + 1} {key}",
        "other host": f"[127.0.0.2]:{server.port} {key}",
        "negated": f"!{name},* {key}",
        "negated with a wildcard": f"*,!127.0.0.*,![127.0.0.*]:* {key}",
        "hash of another": f"{hashed_name('[127.0.0.2]:22')} {key}",
        "commented out": f"# {name} {key}",
        "authority only": f"@cert-authority {name} {key}",
        "key changed": f"{name} {public_key(server.strange_key)}",
        "key changed, other type": f"{name} ecdsa-sha2-nistp256 {ECDSA}",
        "changed here, right without a port": (
            f"{name} {public_key(server.strange_key)}\n127.0.0.1 {key}"
        ),
        "revoked": f"{name} {key}\n@revoked * {key}",
        "revoked first": f"@revoked {name} {key}\n{name} {key}",
        "base64 broken": f"{name} ssh-ed25519 AAAA",
        "type and key differ": f"{name} ssh-rsa {key.split()[1]}",
    }


ECDSA = (
    "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNu"
    "G5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg="
)
KNOWN = [
    "plain", "with a comment", "several names", "hashed", "without a port", "wildcard",
    "question mark", "negation of another", "another's key too", "malformed lines around",
    "other types unknown here", "authority beside it", "revoked is another key",
    "revoked elsewhere", "rsa only",
]  # fmt: skip
REFUSED = [
    "empty file", "other port", "other host", "negated", "negated with a wildcard",
    "hash of another", "commented out", "authority only", "key changed", "key changed, other type",
    "changed here, right without a port", "revoked", "revoked first", "base64 broken",
    "type and key differ",
]  # fmt: skip
#: Nothing in these files is about the host: it is not even connected to.
UNKNOWN = frozenset(REFUSED) - {
    "key changed", "key changed, other type", "changed here, right without a port", "revoked",
    "revoked first",
}  # fmt: skip


@pytest.mark.parametrize("how", KNOWN)
def test_a_host_is_known_by_lines_as_openssh_reads_them(
    sshd: Sshd, tmp_path: Path, image: Path, how: str
) -> None:
    backend = with_known_hosts(sshd, tmp_path, lines_that_know(sshd)[how])
    assert_that(fetched(sshd.url(image), backend), Equals(image.read_bytes()))


@pytest.mark.parametrize("how", REFUSED)
def test_a_host_that_is_not_known_is_refused_before_it_learns_anything(
    sshd: Sshd, tmp_path: Path, image: Path, how: str
) -> None:
    log = len(log_of(sshd))
    backend = with_known_hosts(sshd, tmp_path, lines_that_refuse(sshd)[how])
    content = (tmp_path / "known_hosts").read_text()
    with TcpProxy("127.0.0.1", sshd.port) as proxy:
        lines = content.replace(f":{sshd.port}", f":{proxy.port}")
        (tmp_path / "known_hosts").write_text(lines)
        with pytest.raises(PolicyViolation) as caught:
            fetched(f"scp://nosuchuser@127.0.0.1:{proxy.port}{image}", backend)
    assert_that(caught.value.hint, Contains("ssh-keyscan" if how in UNKNOWN else "administrator"))
    assert_that(proxy.connections, Equals(0 if how in UNKNOWN else 1))
    # sshd names the user as soon as it has heard of one.
    assert_that(log_of(sshd)[log:], Not(Contains("nosuchuser")))
    assert_that((tmp_path / "known_hosts").read_text(), Equals(lines))


def test_without_a_known_hosts_file_every_host_is_unknown(sshd: Sshd, image: Path) -> None:
    with pytest.raises(PolicyViolation) as caught:
        fetched(sshd.url(image), make_backend(sshd, known_hosts="/nonexistent/known_hosts"))
    hint = f"ssh-keyscan -p {sshd.port} 127.0.0.1"
    assert_that(caught.value.hint, Contains(hint))


@pytest.mark.parametrize("line", ["@revoked * ssh-ed25519 !!!", "@revoke * {key}", "@revoked"])
def test_a_malformed_line_with_a_marker_is_an_error_because_it_might_revoke(
    sshd: Sshd, tmp_path: Path, image: Path, line: str
) -> None:
    line = line.format(key=public_key(sshd.host_keys["ed25519"]))
    backend = with_known_hosts(sshd, tmp_path, known_hosts_line(sshd), line)
    with pytest.raises(ConfigError, match="line 2"):
        fetched(sshd.url(image), backend)


def test_known_hosts_that_cannot_be_read_is_an_error(sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        fetched(sshd.url("/x"), make_backend(sshd, known_hosts=str(tmp_path)))


def test_a_known_hosts_file_is_read_again_after_it_has_changed(
    sshd: Sshd, tmp_path: Path, image: Path
) -> None:
    backend = with_known_hosts(sshd, tmp_path, "# nobody")
    with pytest.raises(PolicyViolation):
        fetched(sshd.url(image), backend)
    (tmp_path / "known_hosts").write_text(known_hosts_line(sshd) + "\n")
    assert_that(fetched(sshd.url(image), backend), Equals(image.read_bytes()))


# Algorithms


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


# Who we are: users and keys


def test_the_configured_user_logs_in_where_the_ref_names_none(sshd: Sshd, image: Path) -> None:
    url = f"scp://127.0.0.1:{sshd.port}{image}"
    data = fetched(url, make_backend(sshd, username=sshd.user))
    assert_that(data, Equals(image.read_bytes()))


def test_a_ref_may_not_name_another_user_than_the_configured_one(sshd: Sshd, image: Path) -> None:
    with pytest.raises(PolicyViolation):
        fetched(sshd.url(image, user="nobody"), make_backend(sshd, username=sshd.user))


def test_without_any_user_it_is_a_matter_of_configuration(sshd: Sshd, image: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        fetched(f"scp://127.0.0.1:{sshd.port}{image}", make_backend(sshd))
    assert_that(caught.value.hint, Contains("username"))


def test_without_a_key_it_is_a_matter_of_configuration(
    sshd: Sshd, image: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The service's own account may well have keys: they are not for this.
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519").write_bytes(sshd.key.read_bytes())
    (tmp_path / ".ssh" / "id_ed25519").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        fetched(sshd.url(image), make_backend(sshd, identity_file=None))
    assert_that(caught.value.hint, Contains("identity_file"))


@pytest.mark.parametrize("kind", ["key", "rsa_key"])
def test_keys_of_each_kind_log_in(sshd: Sshd, image: Path, kind: str) -> None:
    backend = make_backend(sshd, identity_file=str(getattr(sshd, kind)))
    assert_that(fetched(sshd.url(image), backend), Equals(image.read_bytes()))


def test_a_key_with_its_passphrase_logs_in(sshd: Sshd, image: Path) -> None:
    backend = make_backend(
        sshd, identity_file=str(sshd.encrypted_key), identity_passphrase=sshd.passphrase
    )
    assert_that(fetched(sshd.url(image), backend), Equals(image.read_bytes()))


@pytest.mark.parametrize("passphrase", [None, "wrong horse"])
def test_a_key_without_its_passphrase_is_not_authorized(
    sshd: Sshd, image: Path, passphrase: str | None
) -> None:
    backend = make_backend(
        sshd, identity_file=str(sshd.encrypted_key), identity_passphrase=passphrase
    )
    with pytest.raises(NotAuthorized) as caught:
        fetched(sshd.url(image), backend)
    assert_that(caught.value.hint, Contains("identity_passphrase"))
    assert_that(str(caught.value) + caught.value.hint, Not(Contains("wrong horse")))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_an_error_that_says_how_to_mend_it(
    sshd: Sshd, tmp_path: Path, mode: int
) -> None:
    key = tmp_path / "key"
    key.write_bytes(sshd.key.read_bytes())
    key.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        fetched(sshd.url("/x"), make_backend(sshd, identity_file=str(key)))
    assert_that(caught.value.hint, Contains(f"chmod 600 {key}"))


@pytest.mark.parametrize("content", [None, b"", b"no key", b"\xff" * 100])
def test_a_file_that_is_no_key_is_an_error(
    sshd: Sshd, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
        (tmp_path / "key").chmod(0o600)
    with pytest.raises(ConfigError):
        fetched(sshd.url("/x"), make_backend(sshd, identity_file=str(tmp_path / "key")))


def test_a_key_that_the_server_refuses_is_not_authorized(sshd: Sshd, image: Path) -> None:
    with pytest.raises(NotAuthorized) as caught:
        fetched(sshd.url(image), make_backend(sshd, identity_file=str(sshd.strange_key)))
    assert_that(caught.value.retryable, Is(False))
    assert_that(caught.value.hint, Contains("authorized_keys"))


@pytest.mark.parametrize("wanted", ["publickey,password", "publickey,publickey"])
def test_a_server_that_wants_more_than_the_key_is_not_authorized(
    another_sshd: Callable[..., Sshd], image: Path, wanted: str
) -> None:
    server = another_sshd(
        settings=[f"AuthenticationMethods {wanted}", "PasswordAuthentication yes"]
    )
    with pytest.raises(NotAuthorized):
        fetched(server.url(image), make_backend(server))


def agent_with(key: Path, tmp_path: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """A running ssh agent that holds a key, and its socket."""
    address = tmp_path / "agent"
    agent = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(address)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    environment = {**os.environ, "SSH_AUTH_SOCK": str(address)}
    command = ["ssh-add", "-q", str(key)]
    while subprocess.run(command, env=environment, capture_output=True).returncode:
        assert agent.poll() is None
    return agent, address


def test_the_agent_and_personal_keys_are_never_offered_by_a_service(
    another_sshd: Callable[..., Sshd], tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = another_sshd(settings=["LogLevel DEBUG1"])
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_rsa").write_bytes(server.rsa_key.read_bytes())
    (tmp_path / ".ssh" / "id_rsa").chmod(0o600)
    agent, address = agent_with(server.key, tmp_path)
    try:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("SSH_AUTH_SOCK", str(address))
        with pytest.raises(NotAuthorized):
            fetched(server.url(image), make_backend(server, identity_file=str(server.strange_key)))
    finally:
        agent.terminate()
        agent.communicate()
    assert_that(log_of(server).count("userauth-request for user"), Equals(1))
    assert_that(log_of(server), Not(Contains("Accepted publickey")))


def test_a_person_logs_in_with_the_agent_and_their_own_known_hosts(
    sshd: Sshd, tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "known_hosts").write_text(known_hosts_line(sshd) + "\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    agent, address = agent_with(sshd.key, tmp_path)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(address))
        data = fetched(f"scp://127.0.0.1:{sshd.port}{image}", make_backend(personal=True))
    finally:
        agent.terminate()
        agent.communicate()
    assert_that(data, Equals(image.read_bytes()))


def test_a_person_logs_in_with_the_key_in_their_home(
    sshd: Sshd, tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "known_hosts").write_text(known_hosts_line(sshd) + "\n")
    for name, key in (("id_ed25519", sshd.strange_key), ("id_rsa", sshd.rsa_key)):
        (tmp_path / ".ssh" / name).write_bytes(key.read_bytes())
        (tmp_path / ".ssh" / name).chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    data = fetched(f"scp://127.0.0.1:{sshd.port}{image}", make_backend(personal=True))
    assert_that(data, Equals(image.read_bytes()))


def test_ssh_config_is_not_read(
    sshd: Sshd, tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(
        f"Host *\n ProxyCommand touch {tmp_path}/marker\n User nobody\n"
        "Host alias\n HostName 127.0.0.1\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    fetched(sshd.url(image), make_backend(sshd))
    assert_that((tmp_path / "marker").exists(), Is(False))


def test_an_address_that_policy_refuses_gets_no_packet(sshd: Sshd, image: Path) -> None:
    with RawServer(lambda connection, index: None) as server:
        url = f"scp://u@127.0.0.1:{server.port}{image}"
        file = image.with_name("known_hosts")
        file.write_text(f"[127.0.0.1]:{server.port} {public_key(sshd.key)}\n")
        with pytest.raises(PolicyViolation):
            fetched(url, make_backend(sshd, reach="10.0.0.0/8", known_hosts=str(file)))
    assert_that(server.connections, Equals([]))


def test_a_port_at_which_nobody_listens_is_a_transfer_error(sshd: Sshd, tmp_path: Path) -> None:
    port = closed_port()
    backend = with_known_hosts(
        sshd, tmp_path, f"[127.0.0.1]:{port} {public_key(sshd.host_keys['rsa'])}"
    )
    with pytest.raises(TransferError):
        fetched(f"scp://u@127.0.0.1:{port}/x", backend)


def test_a_server_without_sftp_is_an_error_and_gets_no_command(
    another_sshd: Callable[..., Sshd], image: Path
) -> None:
    server = another_sshd(sftp=False, settings=["LogLevel DEBUG1"])
    with pytest.raises(TransferError) as caught:
        fetched(server.url(image), make_backend(server))
    assert_that(caught.value.retryable, Is(False))
    assert_that(caught.value.hint, Contains("Subsystem"))
    assert_that(log_of(server), Not(Contains("request exec")))


def test_a_server_that_forces_sftp_works(another_sshd: Callable[..., Sshd], image: Path) -> None:
    server = another_sshd(force_sftp=True)
    assert_that(fetched(server.url(image), make_backend(server)), Equals(image.read_bytes()))


# Reading beneath an endpoint


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A directory that is to be the endpoint, with a neighbour that is not."""
    for name in ("shelf/inner", "shelf-evil", "outside"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "image").write_bytes(name.encode())
    (tmp_path / "shelf" / "image").write_bytes(b"on the shelf")
    (tmp_path / "shelf" / "out").symlink_to(tmp_path / "outside" / "image")
    (tmp_path / "shelf" / "evil").symlink_to(tmp_path / "shelf-evil")
    (tmp_path / "shelf" / "in").symlink_to("inner/image")
    return tmp_path / "shelf"


@pytest.mark.parametrize(
    ("path", "data"), [("image", b"on the shelf"), ("inner/image", b"shelf/inner"),
                       ("in", b"shelf/inner")]
)  # fmt: skip
def test_files_beneath_the_endpoint_can_be_read(
    sshd: Sshd, shelf: Path, path: str, data: bytes
) -> None:
    backend = make_backend(sshd, endpoint=[sshd.url(shelf) + "/"])
    assert_that(fetched(sshd.url(shelf / path), backend), Equals(data))


@pytest.mark.parametrize("path", ["out", "evil/image"])
def test_a_link_that_leads_out_of_the_endpoint_is_refused(
    sshd: Sshd, shelf: Path, path: str
) -> None:
    backend = make_backend(sshd, endpoint=[sshd.url(shelf) + "/"])
    with pytest.raises(PolicyViolation):
        fetched(sshd.url(shelf / path), backend)


@pytest.mark.parametrize("path", ["../outside/image", "../shelf-evil/image"])
def test_refs_outside_of_the_endpoint_are_refused_without_a_connection(
    sshd: Sshd, shelf: Path, path: str
) -> None:
    log = len(log_of(sshd))
    backend = make_backend(sshd, endpoint=[sshd.url(shelf) + "/"])
    with pytest.raises(PolicyViolation):
        fetched(sshd.url((shelf / path).resolve()), backend)
    # The end of an earlier connection may be logged late.
    assert_that(log_of(sshd)[log:], Not(Contains("Connection from")))


def test_the_endpoint_may_itself_be_reached_through_a_link(
    sshd: Sshd, shelf: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(shelf)
    backend = make_backend(sshd, endpoint=[sshd.url(tmp_path / "link") + "/"])
    data = fetched(sshd.url(tmp_path / "link" / "image"), backend)
    assert_that(data, Equals(b"on the shelf"))


def test_a_known_host_outside_of_the_endpoint_is_not_offered_the_key(
    sshd: Sshd, shelf: Path, another_sshd: Callable[..., Sshd], tmp_path: Path
) -> None:
    other = another_sshd()
    known = tmp_path / "both"
    known.write_text(sshd.known_hosts.read_text() + other.known_hosts.read_text())
    backend = make_backend(sshd, endpoint=[sshd.url(shelf) + "/"], known_hosts=str(known))
    with pytest.raises(PolicyViolation):
        fetched(other.url(shelf / "image"), backend)
    assert_that(log_of(other), Not(Contains("Connection from")))


def test_the_user_of_the_endpoint_is_the_configured_user(sshd: Sshd, shelf: Path) -> None:
    backend = make_backend(sshd, endpoint=[sshd.url(shelf) + "/"])
    url = f"scp://127.0.0.1:{sshd.port}{shelf}/image"
    assert_that(fetched(url, backend), Equals(b"on the shelf"))
    with pytest.raises(PolicyViolation):
        fetched(sshd.url(shelf / "image", user="nobody"), backend)


@pytest.mark.parametrize(
    "options",
    [
        {"endpoint": ["scp://a@h/x/"], "username": "b"},
        {"endpoint": ["https://h/x/"]},
        {"proxy": "http://proxy:3128"},
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make_backend(**options)


# Resources and secrets


def test_200_downloads_half_of_them_failing_leave_nothing_behind(
    sshd: Sshd, tmp_path: Path
) -> None:
    random_file(tmp_path / "image", MIB)
    backend = make_backend(sshd)

    def fetch(index: int) -> bool:
        try:
            return bool(fetched(sshd.url(tmp_path / ("image", "missing")[index % 2]), backend))
        except ImageNotFound:
            return False

    # What is made once is made now; each thread has an arena of the allocator.
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fetch, range(60)))
    sockets = open_sockets()
    descriptors = len(os.listdir("/proc/self/fd"))
    memory = resident()
    with ThreadPoolExecutor(4) as pool:
        assert_that(list(pool.map(fetch, range(200))), Equals([True, False] * 100))
    assert_that(ssh_threads(), Equals([]))
    assert_that(open_sockets(), Equals(sockets))
    assert_that(len(os.listdir("/proc/self/fd")) <= descriptors, Is(True))
    gc.collect()
    assert_that(resident() - memory, LessThan(24 * MIB))


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_closing_twice_and_reading_after_it(sshd: Sshd, image: Path) -> None:
    with opened(sshd.url(image), make_backend(sshd)) as source:
        source.close()
        source.close()
        with pytest.raises(TransferError):
            next(source.read())
    assert_that(ssh_threads(), Equals([]))


def test_nothing_secret_is_logged_and_nothing_is_said_uninvited(
    sshd: Sshd, image: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        backend = make_backend(
            sshd, identity_file=str(sshd.encrypted_key), identity_passphrase=sshd.passphrase
        )
        fetched(sshd.url(image), backend)
    assert_that(len(caplog.records), GreaterThan(10))
    secrets = [sshd.passphrase, *sshd.encrypted_key.read_text().splitlines()[1:-1]]
    for record in caplog.records:
        assert_that(len(record.getMessage()), LessThan(1025))
        assert_that([s for s in secrets if s in record.getMessage()], Equals([]))


def test_a_failed_handshake_prints_nothing_to_a_terminal(sshd: Sshd) -> None:
    script = (
        "from tests.plugins.scp_peers import *\n"
        "from imagebroker.plugin import *\n"
        "from tests.servers.raw import RawServer\n"
        "import pathlib, tempfile\n"
        "with RawServer(lambda c, i: c.sendall(b'SSH-2.0-x\\r\\n' + b'\\xff' * 100)) as server:\n"
        "    with tempfile.NamedTemporaryFile('w') as known:\n"
        f"        known.write(f'[127.0.0.1]:{{server.port}} {public_key(sshd.key)}\\n')\n"
        "        known.flush()\n"
        f"        backend = make_backend(known_hosts=known.name, identity_file={str(sshd.key)!r})\n"
        "        try:\n"
        "            fetched(f'scp://u@127.0.0.1:{server.port}/x', backend)\n"
        "        except TransferError as error:\n"
        "            print('as expected')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert_that((done.stdout, done.stderr), Equals(("as expected\n", "")))


def test_importing_the_package_needs_no_paramiko(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['paramiko'] = None\n"
        "import imagebroker_scp, imagebroker\n"
        "from tests.plugins.scp_peers import make_backend\n"
        "try:\n"
        "    make_backend()\n"
        "except imagebroker.BackendLoadError as error:\n"
        "    print(error.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert_that((done.stdout, done.stderr), Equals(("pip install 'imagebroker[scp]'\n", "")))


# Through the broker


def test_the_broker_downloads_over_scp(
    make_broker: Callable[..., imagebroker.Broker], sshd: Sshd, image: Path, tmp_path: Path
) -> None:
    broker = make_broker(configuration(known_hosts=sshd.known_hosts, identity_file=sshd.key))
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    done = broker.download(None, sshd.url(image), tmp_path / "copy", checksum=f"sha256:{digest}")
    assert_that((tmp_path / "copy").read_bytes(), Equals(image.read_bytes()))
    assert_that(done.evidence["sha256"], Equals(digest))
    assert_that(broker.get(None, sshd.url(image)).size, Equals(3 * MIB + 17))
    assert_that(sshd.url(image), EndsWith("image.raw"))


# The directory of an endpoint: list, create, delete


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with three images and much that is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index, name in enumerate(("b.raw", "a b.qcow2", "c")):
        (folder / name).write_bytes(b"x" * (300 - index))
        os.utime(folder / name, (0, 1_700_000_000 + index))
    (folder / "directory").mkdir()
    (folder / "link").symlink_to("c")
    os.mkfifo(folder / "fifo")
    (folder / ".0123.imagebroker-part").touch()
    (folder / "two\nlines").touch()
    return folder


def with_endpoint(sshd: Sshd, folder: Path, **options: Any) -> ScpBackend:
    return make_backend(sshd, endpoint=[sshd.url(folder) + "/"], **options)


def names(backend: ScpBackend, **query: Any) -> list[str | None]:
    return [image.name for image in backend.get_all(None, ImageQuery(**query))]


def test_the_list_has_the_regular_files_of_the_directory(sshd: Sshd, folder: Path) -> None:
    backend = with_endpoint(sshd, folder)
    images = {image.name: image for image in backend.get_all(None, ImageQuery())}
    assert_that(sorted(images, key=str), Equals(["a b.qcow2", "b.raw", "c"]))
    image = images["a b.qcow2"]
    assert_that(image.size, Equals(299))
    assert_that(image.status, Equals("active"))
    assert_that(image.ref, Equals(f"{sshd.url(folder)}/a%20b.qcow2"))
    assert_that(fetched(image.ref, backend), Equals(b"x" * 299))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"sort_key": "name", "sort_dir": "asc"}, ["a b.qcow2", "b.raw", "c"]),
        ({"sort_key": "name", "sort_dir": "desc"}, ["c", "b.raw", "a b.qcow2"]),
        ({"sort_key": "size", "sort_dir": "asc"}, ["c", "a b.qcow2", "b.raw"]),
        ({"sort_key": "updated_at"}, ["c", "a b.qcow2", "b.raw"]),
        ({"sort_key": "name", "sort_dir": "asc", "limit": 2}, ["a b.qcow2", "b.raw"]),
        ({"limit": 0}, []),
        ({"sort_key": "name", "sort_dir": "asc", "marker": "b.raw"}, ["c"]),
        ({"filters": {"name": "c"}}, ["c"]),
        ({"filters": {"name": ["c", "b.raw"], "status": "active"}}, ["c", "b.raw"]),
        ({"filters": {"size_min": 299, "size_max": "299"}}, ["a b.qcow2"]),
        ({"filters": {"changes-since": "2023-11-14T22:13:21Z"}}, ["c", "a b.qcow2"]),
        ({"filters": {"status": "queued"}}, []),
        ({"filters": {"hidden": True}}, []),
        ({"filters": {"hidden": False, "name": "c"}}, ["c"]),
        ({"filters": {"property-os": "linux"}}, []),
        ({"filters": {"disk_format": "raw"}}, []),
    ],
    ids=str,
)
def test_the_list_is_sorted_filtered_and_cut(
    sshd: Sshd, folder: Path, query: dict[str, Any], expected: list[str]
) -> None:
    assert_that(names(with_endpoint(sshd, folder), **query), Equals(expected))


@pytest.mark.parametrize(
    "query",
    [
        {"sort_key": "shoe size"}, {"sort_dir": "up"}, {"filters": {"shoe size": 1}},
        {"filters": {"size_min": "big"}}, {"filters": {"changes-since": "yesterday"}},
        {"limit": -1},
    ],
    ids=str,
)  # fmt: skip
def test_a_query_that_makes_no_sense_is_refused_at_once(
    sshd: Sshd, folder: Path, query: dict[str, Any]
) -> None:
    log = len(log_of(sshd))
    with pytest.raises(InvalidImageRef):
        with_endpoint(sshd, folder).get_all(None, ImageQuery(**query))
    # What an earlier session's end still writes is no business of this one.
    assert_that("Connection from" in log_of(sshd)[log:], Equals(False))


def test_a_marker_that_is_not_there_is_refused(sshd: Sshd, folder: Path) -> None:
    with pytest.raises(InvalidImageRef):
        names(with_endpoint(sshd, folder), marker="gone")


def test_a_list_that_is_left_early_leaves_no_connection(sshd: Sshd, folder: Path) -> None:
    listing = with_endpoint(sshd, folder).get_all(None, ImageQuery())
    next(listing)
    del listing
    assert_that(ssh_threads(), Equals([]))


@pytest.mark.parametrize("verb", ["list", "create", "delete"])
def test_without_an_endpoint_there_is_nothing_to_list_or_change(
    sshd: Sshd, image: Path, verb: str
) -> None:
    backend = make_backend(sshd)
    calls: dict[str, Callable[[], Any]] = {
        "list": lambda: list(backend.get_all(None, ImageQuery())),
        "create": lambda: backend.create(None, Image(ref="", name="new"), ImageData(b"x")),
        "delete": lambda: backend.delete(None, parse(sshd.url(image))),
    }
    with pytest.raises(UnsupportedOperation) as caught:
        calls[verb]()
    assert_that(caught.value.hint, Contains("endpoint"))
    assert_that(image.exists(), Is(True))


@pytest.mark.parametrize("size", [0, 1, 5 * MIB + 3])
def test_a_created_file_is_complete_private_and_alone(
    sshd: Sshd, tmp_path: Path, size: int
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    data = random_file(tmp_path / "data", size)
    backend = with_endpoint(sshd, folder)
    with closing(ImageData(data, size)) as sent:
        image = backend.create(None, Image(ref="", name="né w.raw"), sent)
    assert_that((folder / "né w.raw").read_bytes() == data.read_bytes(), Is(True))
    assert_that((folder / "né w.raw").stat().st_mode & 0o777, Equals(0o600))
    assert_that(os.listdir(folder), Equals(["né w.raw"]))
    assert_that(
        image,
        MatchesStructure.byEquality(
            ref=f"{sshd.url(folder)}/n%C3%A9%20w.raw", name="né w.raw", size=size, status="active"
        ),
    )
    assert_that(fetched(image.ref, backend) == data.read_bytes(), Is(True))


@pytest.mark.parametrize(
    "name",
    [None, "", ".", "..", "a/b", "/a", "a\nb", "a\0b", "x" * 256, ".x.imagebroker-part", "\udcff"],
)
def test_a_name_that_is_no_file_name_is_refused(sshd: Sshd, folder: Path, name: str | None) -> None:
    with pytest.raises(InvalidImageRef):
        with_endpoint(sshd, folder).create(None, Image(ref="", name=name), ImageData(b"x"))


@pytest.mark.parametrize(
    ("image", "data"),
    [
        (Image(ref="", name="new"), None),
        (Image(ref="", name="new", id="00000000-0000-0000-0000-000000000000"), ImageData(b"x")),
    ],
)
def test_a_record_without_data_or_with_an_id_is_refused(
    sshd: Sshd, folder: Path, image: Image, data: ImageData | None
) -> None:
    with pytest.raises(InvalidImageRef):
        with_endpoint(sshd, folder).create(None, image, data)


@pytest.mark.parametrize("name", ["b.raw", "directory", "link"])
def test_what_exists_is_not_replaced(sshd: Sshd, folder: Path, name: str) -> None:
    before = sorted(os.listdir(folder))
    with pytest.raises(Conflict):
        with_endpoint(sshd, folder).create(None, Image(ref="", name=name), ImageData(b"new"))
    assert_that(sorted(os.listdir(folder)), Equals(before))
    assert_that((folder / "b.raw").read_bytes(), Equals(b"x" * 300))


def test_what_came_while_the_data_was_sent_is_not_replaced(sshd: Sshd, folder: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"ours"
        (folder / "new").write_bytes(b"theirs")

    before = sorted(os.listdir(folder))
    with pytest.raises(Conflict):
        with_endpoint(sshd, folder).create(None, Image(ref="", name="new"), ImageData(chunks()))
    assert_that((folder / "new").read_bytes(), Equals(b"theirs"))
    assert_that(sorted(os.listdir(folder)), Equals(sorted([*before, "new"])))


@pytest.mark.parametrize("after", [0, 1, 100])
def test_a_source_that_fails_leaves_nothing_on_the_server(
    sshd: Sshd, folder: Path, after: int
) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(after):
            yield b"x" * 50_000
        raise ValueError("the tape is torn")

    before = sorted(os.listdir(folder))
    with pytest.raises(UploadFailed, match="the tape is torn"):
        with_endpoint(sshd, folder).create(None, Image(ref="", name="new"), ImageData(chunks()))
    assert_that(sorted(os.listdir(folder)), Equals(before))


def test_what_the_server_may_not_write_is_not_authorized(
    another_sshd: Callable[..., Sshd], folder: Path
) -> None:
    server = another_sshd(sftp=False, settings=["Subsystem sftp internal-sftp -R"])
    with pytest.raises(NotAuthorized):
        with_endpoint(server, folder).create(None, Image(ref="", name="new"), ImageData(b"x"))
    with pytest.raises(NotAuthorized):
        with_endpoint(server, folder).delete(None, parse(server.url(folder / "c")))


def test_a_server_that_cannot_finish_keeps_nothing(
    another_sshd: Callable[..., Sshd], folder: Path
) -> None:
    server = another_sshd(sftp=False, settings=["Subsystem sftp internal-sftp -P rename"])
    before = sorted(os.listdir(folder))
    with pytest.raises(NotAuthorized):
        with_endpoint(server, folder).create(None, Image(ref="", name="new"), ImageData(b"x"))
    assert_that(sorted(os.listdir(folder)), Equals(before))


def test_a_connection_that_breaks_during_an_upload_leaves_all_or_nothing(
    sshd: Sshd, tmp_path: Path
) -> None:
    data = random_file(tmp_path / "data", 200_000).read_bytes()
    (tmp_path / "known").write_text(f"[127.0.0.1]:* {public_key(sshd.host_keys['ed25519'])}\n")

    def upload(number: int, fault: Fault) -> tuple[str, int]:
        folder = tmp_path / f"images{number}"
        folder.mkdir()
        with TcpProxy("127.0.0.1", sshd.port, fault, only=0) as proxy:
            endpoint = f"scp://{sshd.user}@127.0.0.1:{proxy.port}{folder}/"
            known = str(tmp_path / "known")
            backend = make_backend(sshd, endpoint=[endpoint], known_hosts=known)
            try:
                backend.create(None, Image(ref="", name="new"), ImageData(data))
            except TransferError:
                assert_that(os.listdir(folder), Equals([]), str(fault))
                return "nothing", proxy.sent
            assert_that(os.listdir(folder), Equals(["new"]), str(fault))
            assert_that((folder / "new").read_bytes() == data, Is(True), str(fault))
            return "all", proxy.sent

    assert_that(upload(0, NO_FAULT)[0], Equals("all"))
    total = upload(1, NO_FAULT)[1]
    outcomes = {
        upload(step, Fault(cut_after=place, upload=True))[0]
        for step, place in enumerate([100, 2000, total // 2, *range(total - 500, total, 60)], 2)
    }
    assert_that(outcomes, Contains("nothing"))


def test_an_upload_whose_last_answer_was_lost_has_succeeded(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "known").write_text(f"[127.0.0.1]:* {public_key(sshd.host_keys['ed25519'])}\n")
    folder = tmp_path / "images"
    folder.mkdir()

    def create(name: str, fault: Fault) -> tuple[Image, int]:
        """The image, and the bytes of the server's answers, all of them counted."""
        with TcpProxy("127.0.0.1", sshd.port, fault, only=0) as proxy:
            endpoint = f"scp://{sshd.user}@127.0.0.1:{proxy.port}{folder}/"
            backend = make_backend(sshd, endpoint=[endpoint], known_hosts=str(tmp_path / "known"))
            image = backend.create(None, Image(ref="", name=name), ImageData(b"data"))
        return image, proxy.passages[0].received

    # The answer to the rename is the last thing that the server says.
    _, answers = create("first", Fault())
    image, received = create("again", Fault(cut_after=answers - 1))
    assert_that(received, Equals(answers - 1))
    assert_that(image.size, Equals(4))
    assert_that(sorted(os.listdir(folder)), Equals(["again", "first"]))


def test_delete_removes_a_file_or_the_link_itself(sshd: Sshd, folder: Path) -> None:
    backend = with_endpoint(sshd, folder)
    backend.delete(None, parse(sshd.url(folder / "link")))
    assert_that((folder / "c").exists(), Is(True))
    backend.delete(None, parse(sshd.url(folder / "c")))
    assert_that((folder / "c").exists(), Is(False))
    with pytest.raises(ImageNotFound):
        backend.delete(None, parse(sshd.url(folder / "c")))


@pytest.mark.parametrize("path", ["../outside/image", "evil/image", "inner"])
def test_delete_stays_beneath_the_endpoint_and_removes_files_only(
    sshd: Sshd, shelf: Path, path: str
) -> None:
    target = (shelf / path).parent.resolve() / Path(path).name if ".." in path else shelf / path
    with pytest.raises(PolicyViolation):
        with_endpoint(sshd, shelf).delete(None, parse(sshd.url(target)))
    assert_that((shelf / path).exists(), Is(True))


def test_a_running_read_survives_delete(sshd: Sshd, tmp_path: Path) -> None:
    path = random_file(tmp_path / "image", 12 * MIB)
    before = path.read_bytes()
    backend = with_endpoint(sshd, tmp_path)
    with opened(sshd.url(path), backend) as source:
        reading = source.read()
        data = [bytes(next(reading))]
        backend.delete(None, parse(sshd.url(path)))
        data += map(bytes, reading)
    assert_that(b"".join(data) == before, Is(True))


def test_the_broker_creates_lists_and_deletes_over_scp(
    make_broker: Callable[..., imagebroker.Broker], sshd: Sshd, tmp_path: Path
) -> None:
    (tmp_path / "images").mkdir()
    broker = make_broker(
        configuration(
            known_hosts=sshd.known_hosts,
            identity_file=sshd.key,
            endpoint=sshd.url(tmp_path / "images") + "/",
        )
    )
    created = broker.create(None, {"name": "new.raw"}, b"data", backend="scp")
    assert_that(created.size, Equals(4))
    assert_that([i.ref for i in broker.get_all(None, backend="scp")], Equals([created.ref]))
    broker.download(None, created.ref, tmp_path / "copy")
    assert_that((tmp_path / "copy").read_bytes(), Equals(b"data"))
    broker.delete(None, created.ref)
    assert_that(list(broker.get_all(None, backend="scp")), Equals([]))
    with pytest.raises(UnsupportedOperation):
        broker.update(None, created.ref, {"name": "other"})


def test_a_broken_connection_costs_the_missing_bytes_only(
    make_broker: Callable[..., imagebroker.Broker], sshd: Sshd, tmp_path: Path
) -> None:
    path = random_file(tmp_path / "image", 16 * MIB)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known = tmp_path / "known"
    known.write_text(f"[127.0.0.1]:* {public_key(sshd.host_keys['ed25519'])}\n")
    broker = make_broker(configuration(known_hosts=known, identity_file=sshd.key))
    with TcpProxy("127.0.0.1", sshd.port, Fault(cut_after=10 * MIB), only=0) as proxy:
        url = f"scp://{sshd.user}@127.0.0.1:{proxy.port}{path}#sha256={digest}"
        broker.download(None, url, tmp_path / "copy")
        assert_that(proxy.connections, Equals(2))
        assert_that(proxy.received, LessThan(17 * MIB))
    assert_that((tmp_path / "copy").read_bytes() == path.read_bytes(), Is(True))
