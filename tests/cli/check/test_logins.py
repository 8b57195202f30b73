"""`imagebroker check` logs in to ssh and web servers, and reads the store."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from tests.cli.check.findings import Findings
from tests.cli.conftest import Inside
from tests.servers.nginx import Nginx
from tests.servers.process import HOST
from tests.servers.sshd import Sshd


def scp(sshd: Sshd, folder: Path, **changes: object) -> str:
    """The config of an scp instance that works, but for the changes."""
    right: dict[str, object] = {
        "endpoint": f"scp://{sshd.user}@{sshd.host}:{sshd.port}{folder}/",
        "identity_file": sshd.key,
        "known_hosts": sshd.known_hosts,
        "require_strict_kex": "false",
    }
    options = {name: value for name, value in {**right, **changes}.items() if value is not None}
    lines = "".join(f"{name} = {value}\n" for name, value in options.items())
    return f"[imagebroker]\nenabled_schemes = scp\n[backend:scp]\n{lines}"


def test_a_key_that_is_accepted_is_said(imagebroker: Inside, sshd: Sshd, tmp_path: Path) -> None:
    found = Findings(imagebroker, scp(sshd, tmp_path))
    assert_that((found.status, found.found), Equals((0, [])))
    assert_that(found.stderr, Contains(f"logged in to scp://{sshd.user}@"))


def test_a_key_that_the_server_refuses_is_a_failure(
    imagebroker: Inside, sshd: Sshd, tmp_path: Path
) -> None:
    found = Findings(imagebroker, scp(sshd, tmp_path, identity_file=sshd.strange_key))
    level, what, remedy = found.at("[backend:scp] endpoint")
    assert_that((level, found.status), Equals(("failure", 2)))
    assert_that(what, Contains(str(sshd.strange_key)))
    assert_that(remedy, Contains("authorized_keys"))


def test_a_host_that_is_not_in_known_hosts_is_a_failure(
    imagebroker: Inside, sshd: Sshd, tmp_path: Path
) -> None:
    (tmp_path / "known").write_text("elsewhere.example ssh-ed25519 AAAA\n")
    found = Findings(imagebroker, scp(sshd, tmp_path, known_hosts=tmp_path / "known"))
    level, what, remedy = found.at("[backend:scp] known_hosts")
    assert_that(level, Equals("failure"))
    assert_that(what, Contains(f"port {sshd.port} is not in {tmp_path}/known"))
    assert_that(remedy, Contains(f"ssh-keyscan -p {sshd.port}"))


def test_a_host_with_another_key_is_a_failure(
    imagebroker: Inside, sshd: Sshd, tmp_path: Path
) -> None:
    config = scp(sshd, tmp_path, known_hosts=sshd.wrong_known_hosts)
    level, _, _ = Findings(imagebroker, config).at("[backend:scp] known_hosts")
    assert_that(level, Equals("failure"))


@pytest.mark.parametrize("there", ["nothing", "a file"])
def test_an_endpoint_that_is_no_directory_is_a_failure(
    there: str, imagebroker: Inside, sshd: Sshd, tmp_path: Path
) -> None:
    if there == "a file":
        (tmp_path / "images").write_text("")
    found = Findings(imagebroker, scp(sshd, tmp_path / "images"))
    level, what, _ = found.at("[backend:scp] endpoint")
    assert_that(level, Equals("failure"))
    assert_that(what, Contains("directory"))


def test_without_an_endpoint_an_empty_known_hosts_is_a_warning(
    imagebroker: Inside, sshd: Sshd, tmp_path: Path
) -> None:
    (tmp_path / "known").write_text("# nobody yet\n")
    config = scp(sshd, tmp_path, known_hosts=tmp_path / "known", endpoint=None)
    level, what, _ = Findings(imagebroker, config).at("[backend:scp] known_hosts")
    assert_that(level, Equals("warning"))
    assert_that(what, Contains("every server is refused"))


def test_a_key_with_a_passphrase_that_is_not_set_is_a_failure(
    imagebroker: Inside, sshd: Sshd, tmp_path: Path
) -> None:
    config = scp(sshd, tmp_path, identity_file=sshd.encrypted_key, endpoint=None)
    found = Findings(imagebroker, config)
    [row] = [row for row in found.found if row["level"] == "failure"]
    assert_that(row["remedy"], Contains("identity_passphrase"))


def http(url: str, more: str = "") -> str:
    return (
        "[imagebroker]\nenabled_schemes = http, https\n"
        f"[backend:http]\nallowed_networks = 127.0.0.0/8\nendpoint = {url}/\n{more}\n"
    )


def test_a_web_server_that_answers_is_said(imagebroker: Inside, nginx: Nginx) -> None:
    found = Findings(imagebroker, http(nginx.http_url))
    assert_that((found.status, found.found), Equals((0, [])))
    assert_that(found.stderr, Contains("answers"))


def test_tls_to_a_server_without_it_is_a_failure(imagebroker: Inside, nginx: Nginx) -> None:
    url = nginx.http_url.replace("http://", "https://")
    found = Findings(imagebroker, http(url))
    level, _, remedy = found.at("[backend:http] endpoint")
    assert_that(level, Equals("failure"))
    assert_that(remedy, Contains("write http:// instead of https://"))


def test_a_certificate_of_an_unknown_authority_is_a_failure(
    imagebroker: Inside, nginx: Nginx
) -> None:
    level, what, remedy = Findings(imagebroker, http(nginx.https_url)).at("[backend:http] ca_file")
    assert_that((level, "certificate" in what), Equals(("failure", True)))
    assert_that(remedy, Contains("ca_file"))


def test_two_instances_with_one_endpoint_are_a_failure(imagebroker: Inside, nginx: Nginx) -> None:
    config = f"{http(nginx.http_url)}[backend:http:west]\nendpoint = {nginx.http_url}\n"
    found = Findings(imagebroker, config, "--offline")
    level, what, _ = found.at("[backend:http:west] endpoint")
    assert_that((level, found.status), Equals(("failure", 2)))
    assert_that(what, Contains("is the endpoint of [backend:http] too"))


@pytest.mark.parametrize("address", ["images.example:8080", f"{HOST}:8080/images"])
def test_an_address_without_a_scheme_is_told_the_schemes(address: str, imagebroker: Inside) -> None:
    config = f"[imagebroker]\nenabled_schemes = http\n[backend:http]\nendpoint = {address}\n"
    level, what, remedy = Findings(imagebroker, config, "--offline").at("[backend:http] endpoint")
    assert_that((level, "has no scheme" in what), Equals(("failure", True)))
    assert_that(remedy, Contains(f"http://{address}"))


def test_a_store_that_can_be_read_is_said(imagebroker: Inside, tmp_path: Path) -> None:
    config = (
        f"[imagebroker]\nenabled_schemes = file\n[backend:file]\nstore_dir = {tmp_path}/store\n"
    )
    imagebroker.config(config)
    imagebroker("create", "-f", "json")
    found = Findings(imagebroker, config)
    assert_that((found.status, found.found), Equals((0, [])))
    assert_that(found.stderr, Contains(f"the image store {tmp_path}/store can be read"))


def test_a_damaged_store_is_a_failure(imagebroker: Inside, tmp_path: Path) -> None:
    config = (
        f"[imagebroker]\nenabled_schemes = file\n[backend:file]\nstore_dir = {tmp_path}/store\n"
    )
    imagebroker.config(config)
    imagebroker("create", "-f", "json")
    for each in (tmp_path / "store").rglob("*.sqlite*"):
        each.write_bytes(b"no database" * 1000)
    assert_that(Findings(imagebroker, config).status, Equals(2))


def test_the_lines_are_those_of_a_compiler(imagebroker: Inside) -> None:
    """At 80 columns, whatever their length: nothing splits a word."""
    path = imagebroker.config("[imagebroker]\nenabled_schemes = file\nretires = 3\n")
    done = imagebroker("check", "--offline")
    assert_that(
        done.stdout.decode(),
        Equals(f"{path}:3: warning: [imagebroker] retires: unknown option: it has no effect; did "
               "you mean retries?\n"),
    )  # fmt: skip


def test_a_server_that_does_not_answer_is_named_once(imagebroker: Inside) -> None:
    with socket.socket() as holder:  # bound, but nobody listens
        holder.bind((HOST, 0))
        url = f"http://{HOST}:{holder.getsockname()[1]}"
        found = Findings(imagebroker, http(url))
    assert_that(found.at("[backend:http] endpoint")[1], Contains("Connection refused"))
