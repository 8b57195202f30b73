"""A host is known, or it is refused before it learns anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Not

from imagebroker.plugin import ConfigError, PolicyViolation
from tests.plugins.scp.endpoint import known_hosts_line, log_of, with_known_hosts
from tests.plugins.scp_peers import fetched, hashed_name, make_backend, public_key
from tests.servers.sshd import Sshd
from tests.servers.tcp import TcpProxy


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


@pytest.mark.promise("security-21")
@pytest.mark.parametrize("how", KNOWN)
def test_a_host_is_known_by_lines_as_openssh_reads_them(
    sshd: Sshd, tmp_path: Path, image: Path, how: str
) -> None:
    backend = with_known_hosts(sshd, tmp_path, lines_that_know(sshd)[how])
    assert_that(fetched(sshd.url(image), backend), Equals(image.read_bytes()))


@pytest.mark.promise("security-21")
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
    assert_that(caught.value.hint, Contains("ssh-keyscan" if how in UNKNOWN else "admin"))
    assert_that(proxy.connections, Equals(0 if how in UNKNOWN else 1))
    # sshd names the user as soon as it has heard of one.
    assert_that(log_of(sshd)[log:], Not(Contains("nosuchuser")))
    assert_that((tmp_path / "known_hosts").read_text(), Equals(lines))


@pytest.mark.promise("security-21")
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
