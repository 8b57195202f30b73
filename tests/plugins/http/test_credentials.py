"""Credentials go to the server that they are for, and to no other."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Not

from imagebroker.plugin import NotAuthorized, RangeIgnored
from tests.plugins.http_peers import (
    answer,
    fetched,
    make_backend,
    opened,
    server_context,
    serving,
    talking,
)
from tests.servers.nginx import PASSWORD, Nginx
from tests.servers.raw import Connection, RawServer


def with_password(endpoint: str, **options: Any) -> Any:
    return make_backend(username="tester", password=PASSWORD, endpoint=[endpoint], **options)


def test_basic_authentication_opens_an_endpoint(nginx: Nginx, image: Path) -> None:
    url = nginx.url(image.name, prefix="private")
    assert fetched(url, with_password(nginx.http_url)) == image.read_bytes()
    with pytest.raises(NotAuthorized):
        fetched(url)


@pytest.mark.parametrize("scheme", ["Basic", "Digest", "NTLM", "Negotiate"])
def test_a_challenge_is_never_answered(scheme: str) -> None:
    challenge = answer(b"", f'WWW-Authenticate: {scheme} realm="x"', status="401 Unauthorized")
    for backend in make_backend(), with_password("http://images.example/"):
        with serving(challenge) as server:
            with pytest.raises(NotAuthorized):
                fetched(f"{server.url}/x", backend)
            assert_that(server.received, HasLength(1))
            assert_that(server.received[0].lower(), Not(Contains(b"authorization")))


@pytest.mark.promise("security-18")
def test_credentials_do_not_follow_a_redirect_to_another_port() -> None:
    with (
        serving(answer(b"data")) as other,
        serving(answer(b"", f"Location: {other.url}/y", status="302 Found")) as server,
    ):
        assert fetched(f"{server.url}/x", with_password(server.url)) == b"data"
        assert_that(server.received[0], Contains(b"Authorization: Basic "))
        assert_that(other.received[0].lower(), Not(Contains(b"authorization")))


@pytest.mark.promise("security-18")
def test_credentials_do_not_come_back_after_a_detour() -> None:
    addresses: list[str] = []

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        target = f"Location: {addresses[0]}/detour"
        connection.sendall(answer(b"data") if index else answer(b"", target, status="302 Found"))

    with (
        RawServer(script) as server,
        serving(answer(b"", f"Location: {server.url}/back", status="302 Found")) as other,
    ):
        addresses.append(other.url)
        assert fetched(f"{server.url}/x", with_password(server.url)) == b"data"
        assert_that(server.received[0], Contains(b"Authorization"))
        assert_that(server.received[1], Not(Contains(b"Authorization")))


@pytest.mark.promise("security-18")
def test_credentials_do_not_follow_a_redirect_to_another_scheme(
    nginx: Nginx, tls_files: Path
) -> None:
    with (
        serving(answer(b"data"), tls=server_context(tls_files)) as other,
        serving(answer(b"", f"Location: {other.url}/y", status="302 Found")) as server,
    ):
        backend = with_password(server.url, ca_file=str(nginx.ca_file))
        assert fetched(f"{server.url}/x", backend) == b"data"
        assert_that(other.received[0], Not(Contains(b"Authorization")))


@pytest.mark.promise("security-18")
def test_cookies_are_not_kept() -> None:
    with (
        talking(
            answer(b"abc", "Set-Cookie: a=b", "Accept-Ranges: bytes", 'ETag: "1"'),
        ) as server,
        opened(f"{server.url}/x") as source,
    ):
        list(source.read())
        with pytest.raises(RangeIgnored):
            list(source.read(1))
        assert_that(b"".join(server.received).lower(), Not(Contains(b"cookie")))


@pytest.mark.promise("security-9")
def test_a_name_that_the_server_suggests_is_ignored() -> None:
    with (
        serving(
            answer(b"abc", 'Content-Disposition: attachment; filename="../../etc/cron.d/x"')
        ) as server,
        opened(f"{server.url}/x") as source,
    ):
        assert_that(source.image.name, Equals("x"))
        assert b"".join(source.read()) == b"abc"


def client_checking_context(tls_files: Path) -> ssl.SSLContext:
    context = server_context(tls_files)
    context.load_verify_locations(tls_files / "ca.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


class CertificateLog:
    """A TLS server that takes down whether its clients showed a certificate."""

    def __init__(self, tls_files: Path, reply: bytes) -> None:
        self.shown: list[bool] = []
        self._reply = reply
        self.server = RawServer(self._script, tls=client_checking_context(tls_files))

    def _script(self, connection: Connection, index: int) -> None:
        assert isinstance(connection, ssl.SSLSocket)
        self.shown.append(bool(connection.getpeercert()))
        connection.read_head()
        connection.sendall(self._reply)


@pytest.mark.promise("security-18")
@pytest.mark.parametrize("endpoint", [True, False])
def test_a_client_certificate_is_shown_to_its_server_and_to_no_other(
    tls_files: Path, endpoint: bool
) -> None:
    other = CertificateLog(tls_files, answer(b"data"))
    with other.server:
        location = f"Location: {other.server.url}/y"
        first = CertificateLog(tls_files, answer(b"", location, status="302 Found"))
        with first.server:
            pem = str(tls_files / "good.pem")
            Path(pem).chmod(0o600)
            backend = make_backend(
                ca_file=str(tls_files / "ca.pem"),
                cert_file=pem,
                key_file=pem,
                endpoint=[first.server.url] if endpoint else [],
            )
            assert fetched(f"{first.server.url}/x", backend) == b"data"
    assert (first.shown, other.shown) == ([True], [False])
