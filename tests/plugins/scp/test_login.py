"""As whom the backend logs in, and with which keys."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, Not

from imagebroker.plugin import ConfigError, NotAuthorized, PolicyViolation, TransferError
from tests.plugins.scp.endpoint import known_hosts_line, log_of, with_known_hosts
from tests.plugins.scp_peers import closed_port, fetched, make_backend, public_key
from tests.servers.raw import RawServer
from tests.servers.sshd import Sshd


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


@pytest.mark.promise("security-22")
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


@pytest.mark.promise("security-19")
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


@pytest.mark.promise("security-19")
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


@pytest.mark.promise("security-10")
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


@pytest.mark.promise("security-24")
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
