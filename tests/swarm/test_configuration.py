"""A swarm is off unless it is configured, and does not start without the fleet's certificates."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, StartsWith

import imagebroker
from imagebroker.swarm import certificates
from imagebroker.swarm.start import members, ports
from tests.swarm.fleet import needs_libtorrent

MakeBroker = Callable[..., imagebroker.Broker]


def configured(pki: Path, **changed: str) -> str:
    options = {
        "swarm": "true", "swarm_address": "127.9.9.9", "swarm_members": "127.9.9.8",
        "swarm_ca": f"{pki}/ca.pem", "swarm_certificate": f"{pki}/one.pem",
        "swarm_key": f"{pki}/one.key", "swarm_dir": f"{pki}/spool",
    } | changed  # fmt: skip
    return "[imagebroker]\n" + "\n".join(f"{name} = {value}" for name, value in options.items())


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    certificates.init(tmp_path / "pki", ["one", "two"])
    return tmp_path / "pki"


def test_without_it_nothing_of_the_swarm_is_imported(tmp_path: Path) -> None:
    (tmp_path / "image.raw").write_bytes(b"bytes" * 1000)
    program = (
        "import sys, imagebroker\n"
        f"broker = imagebroker.Broker.from_config({str(tmp_path / 'conf')!r})\n"
        f"broker.download(None, 'file://{tmp_path}/image.raw', {str(tmp_path / 'copy')!r})\n"
        "print([m for m in sys.modules if m.startswith(('imagebroker.swarm', 'libtorrent'))])\n"
    )
    (tmp_path / "conf").write_text(
        f"[imagebroker]\nenabled_schemes = file\n[backend:file]\nallowed_paths = {tmp_path}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert_that(done.stdout.strip(), Equals("[]"))


@needs_libtorrent
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("swarm_ca", ""), ("swarm_ca", "/nowhere/ca.pem"), ("swarm_key", "/nowhere/one.key"),
        ("swarm_certificate", ""), ("swarm_address", "0.0.0.0"), ("swarm_address", "a.host"),
        ("swarm_ports", "80"), ("swarm_members", "a host"), ("swarm_members", ""),
        ("swarm_dir", ""), ("swarm_dir", "spool"), ("swarm_ca", "pki/ca.pem"),
        ("swarm_certificate", "./one.pem"), ("swarm_key", "../one.key"),
        ("swarm_members_dir", "members"),
    ],
)  # fmt: skip
def test_what_it_needs_is_named(
    make_broker: MakeBroker, pki: Path, option: str, value: str
) -> None:
    with pytest.raises(imagebroker.ConfigError) as raised:
        make_broker(configured(pki, **{option: value}))
    assert_that(str(raised.value), Contains(option))
    assert_that(bool(raised.value.hint), Equals(True))


@needs_libtorrent
def test_a_key_of_another_certificate_is_refused(make_broker: MakeBroker, pki: Path) -> None:
    with pytest.raises(imagebroker.ConfigError) as raised:
        make_broker(configured(pki, swarm_key=f"{pki}/two.key"))
    assert_that(str(raised.value), Contains("cannot be used together"))


@needs_libtorrent
def test_all_of_it_together_is_accepted(make_broker: MakeBroker, pki: Path) -> None:
    make_broker(configured(pki))


def test_a_second_init_makes_further_hosts_with_the_same_ca(pki: Path) -> None:
    before = (pki / "ca.pem").read_bytes()
    written = certificates.init(pki, ["three"])
    assert_that((pki / "ca.pem").read_bytes(), Equals(before))
    assert_that(sorted(path.name for path in written), Equals(["three.key", "three.pem"]))
    for key in pki.glob("*.key"):
        assert_that(key.stat().st_mode & 0o777, Equals(0o600))


def test_a_certificate_is_not_overwritten(pki: Path) -> None:
    before = (pki / "one.pem").read_bytes()
    with pytest.raises(imagebroker.DestinationError):
        certificates.init(pki, ["one"])
    assert_that((pki / "one.pem").read_bytes(), Equals(before))


def test_the_name_of_a_host_leads_to_no_other_directory(tmp_path: Path) -> None:
    with pytest.raises(imagebroker.InvalidImageRef):
        certificates.init(tmp_path / "pki", ["../evil"])


def test_members_are_called_at_all_ports_unless_they_have_one() -> None:
    at = ports("7881-7884")
    assert_that(at, Equals([7881, 7882]))
    found = members(["10.0.0.1", "10.0.0.2:99", "fd00::1", "[fd00::1]:99"], at)
    assert_that(
        found,
        Equals([
            ("10.0.0.1", 7881), ("10.0.0.1", 7882), ("10.0.0.2", 99), ("fd00::1", 7881),
            ("fd00::1", 7882), ("fd00::1", 99),
        ]),
    )  # fmt: skip


def test_the_ca_signs_nothing_but_certificates(pki: Path) -> None:
    from cryptography import x509

    authority = x509.load_pem_x509_certificate((pki / "ca.pem").read_bytes())
    host = x509.load_pem_x509_certificate((pki / "one.pem").read_bytes())
    host.verify_directly_issued_by(authority)
    names = host.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert_that(names.get_values_for_type(x509.DNSName), Equals([certificates.NAME, "one"]))
    assert_that(authority.subject.rfc4514_string(), StartsWith("CN=imagebroker-swarm"))
