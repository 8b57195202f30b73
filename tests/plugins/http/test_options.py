"""Options that cannot be used are refused."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Not, StartsWith

from imagebroker.plugin import ConfigError
from tests.plugins.http_peers import make_backend
from tests.servers.nginx import Nginx


@pytest.mark.parametrize(
    "options",
    [
        {"insecure": True},
        {"username": "u"},
        {"password": "p"},
        {"username": "u", "password": "p"},
        {"password": "p", "endpoint": ["https://h/"]},
        {"username": "u:v", "password": "p", "endpoint": ["https://h/"]},
        {"username": "u", "password": "p", "endpoint": ["file:///x/"]},
        {"ca_file": "/nonexistent"},
        {"ca_file": "/"},
        {"ca_file": "/etc/hostname"},
        {"cert_file": "/nonexistent"},
        {"key_file": "/nonexistent"},
        {"proxy": "https://h:1/"},
        {"proxy": "http://u:p@h:99999/"},
        {"proxy": "h:1"},
        {"proxy": "socks5://h:1"},
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_backend(**options)
    assert_that(str(caught.value), StartsWith("[backend:http] "))
    assert_that(caught.value.hint, Not(Equals("")))


def test_a_key_that_everybody_may_read_is_refused(nginx: Nginx, tmp_path: Path) -> None:
    pem = tmp_path / "client.pem"
    pem.write_bytes((nginx.ca_file.parent / "good.pem").read_bytes())
    pem.chmod(0o644)
    with pytest.raises(ConfigError):
        make_backend(cert_file=str(pem), key_file=str(pem))
    pem.chmod(0o640)
    make_backend(cert_file=str(pem), key_file=str(pem))


def test_a_key_with_a_passphrase_is_refused_and_not_asked_for(nginx: Nginx, tmp_path: Path) -> None:
    plain, locked = nginx.ca_file.parent / "good.pem", tmp_path / "locked.pem"
    command = ["openssl", "pkey", "-in", plain, "-aes128", "-passout", "pass:x", "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(ConfigError):
        make_backend(cert_file=str(plain), key_file=str(locked))
