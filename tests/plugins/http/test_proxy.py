"""The http and glance backends through squid, which wants a password."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from imagebroker_glance import GlanceBackend
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan, HasLength, MatchesRegex, Not

import imagebroker
from imagebroker.config.settings import Settings
from imagebroker.exceptions import ConfigError, NotAuthorized, TransferError
from tests.plugins import glance_stub
from tests.plugins.glance_stub import OneImage, Stub
from tests.plugins.http_peers import answer, make_backend, opened, serving, talking
from tests.servers.nginx import Nginx
from tests.servers.process import free_ports
from tests.servers.squid import Squid

DATA = bytes(range(256)) * 400
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxy_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def image(nginx: Nginx) -> str:
    (nginx.root / "proxied.img").write_bytes(DATA)
    return "proxied.img"


def credentials(squid: Squid, password: str | None = None) -> str:
    """The proxy's URL with a user and a password in it."""
    word = quote(squid.password if password is None else password, safe="")
    return squid.url.replace("//", f"//{squid.user}:{word}@")


def basic(squid: Squid) -> str:
    return base64.b64encode(f"{squid.user}:{squid.password}".encode()).decode()


def configured(nginx: Nginx, proxy: str) -> str:
    return (
        "[imagebroker]\nenabled_schemes = http, https\nretries = 0\n[backend:http]\n"
        f"allowed_networks = 127.0.0.0/8\nca_file = {nginx.ca_file}\nproxy = {proxy}\n"
    )


@pytest.mark.promise("C27")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_configured_proxy_gets_its_password_and_the_server_does_not(
    scheme: str, squid: Squid, nginx: Nginx, image: str, tmp_path: Path,
    make_broker: Callable[..., imagebroker.Broker], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    base = nginx.http_url if scheme == "http" else nginx.https_url
    before = len(squid.requests())
    broker = make_broker(configured(nginx, credentials(squid)))
    broker.download(None, f"{base}/{image}", tmp_path / "image", checksum=SHA256)
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    asked = squid.requests(at_least=before + 1)[before:]
    assert_that({(user, method) for user, method, _, _ in asked},
                Equals({("person", "GET" if scheme == "http" else "CONNECT")}))  # fmt: skip
    for secret in squid.password, quote(squid.password, safe=""), basic(squid):
        assert_that(caplog.text, Not(Contains(secret)))


@pytest.mark.promise("security-19")
def test_no_header_for_the_proxy_goes_on_to_a_server(squid: Squid) -> None:
    with talking(answer(DATA)) as server:
        backend = make_backend(proxy=credentials(squid))
        with opened(f"{server.url}/x", backend) as source:
            assert_that(b"".join(source.read()), Equals(DATA))
        assert_that(server.received[0].lower(), Not(Contains(b"proxy-auth")))
        assert_that(server.received[0].lower(), Not(Contains(b"\r\nauthorization")))


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("password", [None, "wrong"])
def test_without_the_right_password_the_hint_says_where_to_write_it(
    scheme: str, password: str | None, squid: Squid, nginx: Nginx, image: str, tmp_path: Path,
    make_broker: Callable[..., imagebroker.Broker],
) -> None:  # fmt: skip
    base = nginx.http_url if scheme == "http" else nginx.https_url
    proxy = squid.url if password is None else credentials(squid, password)
    with pytest.raises(NotAuthorized) as caught:
        make_broker(configured(nginx, proxy)).download(None, f"{base}/{image}", tmp_path / "image")
    assert_that(str(caught.value), MatchesRegex(r"the proxy http://127.0.0.1:\d+ \(option proxy\)"))
    assert_that(caught.value.hint, Contains("option proxy"))
    if password is None:
        assert_that(caught.value.hint, Contains("http://USER:PASSWORD@HOST:PORT"))


def test_a_server_that_the_proxy_cannot_reach_is_not_the_proxys_fault(squid: Squid) -> None:
    (port,) = free_ports(1)
    with (
        pytest.raises(TransferError) as caught,
        opened(f"https://127.0.0.1:{port}/x", make_backend(proxy=credentials(squid))),
    ):
        pass
    assert_that(str(caught.value), Contains("answers 503"))
    assert_that(caught.value.hint, Contains(f"127.0.0.1:{port}"))


# -- a person --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_person_without_a_config_file_has_the_proxy_of_the_environment(
    scheme: str, squid: Squid, nginx: Nginx, image: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SSL_CERT_FILE", str(nginx.ca_file))
    monkeypatch.setenv(f"{scheme}_proxy", credentials(squid))
    base = nginx.http_url if scheme == "http" else nginx.https_url
    before = len(squid.requests())
    with imagebroker.Broker(Settings.for_person()) as broker:
        broker.download(None, f"{base}/{image}", tmp_path / "image", checksum=SHA256)
        asked = squid.requests(at_least=before + 1)
        assert_that(len(asked), GreaterThan(before))
        monkeypatch.setenv("no_proxy", "example.org, 127.0.0.0/8")
        broker.download(None, f"{base}/{image}", tmp_path / "image", checksum=SHA256)
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    assert_that(squid.requests(), HasLength(len(asked)))


def test_each_hop_of_a_redirect_has_the_proxy_of_its_own_url(
    squid: Squid, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(answer(b"data")) as last:
        away = answer(b"", f"Location: http://localhost:{last.port}/x", status="302 Found")
        with serving(away) as first:
            monkeypatch.setenv("http_proxy", credentials(squid))
            monkeypatch.setenv("no_proxy", "localhost")
            before = len(squid.requests())
            backend = make_backend(personal=True)
            with opened(f"{first.url}/x", backend) as source:
                assert_that(b"".join(source.read()), Equals(b"data"))
            asked = squid.requests(at_least=before + 1)[before:]
    assert_that([url for _, _, url, _ in asked], Equals([f"{first.url}/x"]))


def test_a_variable_that_cannot_be_used_stops_only_what_it_is_for(
    nginx: Nginx, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1")
    with imagebroker.Broker(Settings.for_person()) as broker:
        broker.download(None, nginx.url(image), tmp_path / "image", checksum=SHA256)
        with pytest.raises(ConfigError) as caught:
            broker.download(None, f"{nginx.https_url}/{image}", tmp_path / "image2")
    assert_that(str(caught.value), Contains("https_proxy"))


# -- glance ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("person", [False, True])
def test_glance_is_asked_through_it_too(
    person: bool, squid: Squid, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Stub(OneImage()) as stub:
        before = len(squid.requests())
        proxy = {} if person else {"proxy": credentials(squid)}
        if person:
            monkeypatch.setenv("http_proxy", credentials(squid))
        host = glance_stub.make_host(personal=person, endpoint=[f"{stub.url}/"], **proxy)
        backend = GlanceBackend(host)
        assert_that(glance_stub.fetched(backend), Equals(glance_stub.DATA))
        for request in stub.requests:
            assert_that(str(request.headers).lower(), Not(Contains("proxy-auth")))
        asked = squid.requests(at_least=before + 2)[before:]
    assert_that({user for user, _, _, _ in asked}, Equals({"person"}))


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_glance_says_that_it_is_the_proxy_that_wants_a_password(secure: bool, squid: Squid) -> None:
    endpoint = "https://127.0.0.1:9292/" if secure else "http://127.0.0.1:9292/"
    for proxy in squid.url, credentials(squid, "wrong"):
        backend = glance_stub.make_backend(endpoint=[endpoint], proxy=proxy)
        with pytest.raises(NotAuthorized) as caught:
            glance_stub.fetched(backend)
        assert_that(caught.value.hint, Contains("option proxy"))


def test_glance_names_the_proxy_that_cannot_be_reached() -> None:
    (port,) = free_ports(1)
    backend = glance_stub.make_backend(
        endpoint=["http://images.example:9292/"], proxy=f"http://127.0.0.1:{port}"
    )
    with pytest.raises(TransferError) as caught:
        glance_stub.fetched(backend)
    assert_that(str(caught.value), Contains(f"the proxy http://127.0.0.1:{port} (option proxy)"))
