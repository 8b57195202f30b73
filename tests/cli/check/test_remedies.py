"""Each mistake in a backend's section is reported at its own line, and its remedy helps."""

from __future__ import annotations

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from tests.cli.check.findings import Findings
from tests.cli.conftest import Inside

#: Backend, option, a wrong value, what the remedy says, and the value that it leads to.
MISTAKES = [
    ("http", "endpoint", "mirror.example:8080", "http://mirror.example:8080",
     "http://mirror.example:8080/"),
    ("scp", "endpoint", "host.example:/images", "write scp://host.example/images",
     "scp://host.example/images/"),
    ("scp", "endpoint", "http://host.example/images", "scp://host/directory/",
     "scp://host.example/images/"),
    ("http", "allowed_networks", "mirror.example", "or addresses, like", "192.0.2.7"),
    ("http", "allowed_ports", "web", "write a whole number of at least 1", "8080"),
    ("http", "require_checksum", "maybe", "write true or false", "true"),
    ("http", "min_tls", "SSLv3", "write one of TLSv1.2, TLSv1.3", "TLSv1.3"),
    ("http", "proxy", "socks5://proxy.example", "http://", "http://proxy.example:3128"),
    ("http", "ca_file", "/etc/hostname", "PEM files", "/etc/ssl/certs/ca-certificates.crt"),
    ("glance", "endpoint", "https://glance.example:9292/v2", "without the version",
     "https://glance.example:9292/"),
    ("glance", "endpoint", "10.0.0.5:9292", "https://10.0.0.5:9292", "https://10.0.0.5:9292/"),
    ("glance", "auth_type", "passwort", "did you mean password?", "none"),
    ("glance", "valid_interfaces", "intern", "public, internal or admin", "internal"),
    ("file", "store_dir", "images", "begins with /", "/var/lib/imagebroker"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("backend", "option", "wrong", "remedy", "right"), MISTAKES,
    ids=[f"{backend}-{option}-{wrong}" for backend, option, wrong, _, _ in MISTAKES],
)  # fmt: skip
def test_it_is_reported_where_it_stands_and_its_remedy_helps(
    backend: str, option: str, wrong: str, remedy: str, right: str, imagebroker: Inside
) -> None:
    if backend == "glance":
        pytest.importorskip("keystoneauth1")
    config = f"[imagebroker]\nenabled_schemes = {backend}\n[backend:{backend}]\n{option} = %s\n"
    found = Findings(imagebroker, config % wrong, "--offline")
    [row] = [row for row in found.found if row["level"] == "failure"]
    assert_that(row["where"], Equals(f"[backend:{backend}] {option}"))
    assert_that(row["file"].rpartition(":")[2], Equals("4"))
    assert_that(row["remedy"], Contains(remedy))
    helped = Findings(imagebroker, config % right, "--offline")
    assert_that([row for row in helped.found if row["level"] == "failure"], Equals([]))


@pytest.mark.parametrize(
    ("lines", "remedy", "more"),
    [
        ("auth_type = password\nauth_url = https://keystone.example:5000/v3\nusername = me",
         "set password", "password = secret-enough"),
        ("auth_type = password\nusername = me\npassword = secret-enough",
         "set auth_url", "auth_url = https://keystone.example:5000/v3"),
        ("username = me\npassword = secret-enough\nauth_url = https://keystone.example:5000/v3",
         "set auth_type = password", "auth_type = password"),
    ],
)  # fmt: skip
def test_an_option_that_is_missing_is_named(
    lines: str, remedy: str, more: str, imagebroker: Inside
) -> None:
    pytest.importorskip("keystoneauth1")
    config = f"[imagebroker]\nenabled_schemes = glance\n[backend:glance]\n{lines}\n"
    found = Findings(imagebroker, config, "--offline", mode=0o600)
    [row] = [row for row in found.found if row["level"] == "failure"]
    assert_that(row["remedy"], Contains(remedy))
    helped = Findings(imagebroker, f"{config}{more}\n", "--offline", mode=0o600)
    assert_that((helped.status, helped.found), Equals((0, [])))
