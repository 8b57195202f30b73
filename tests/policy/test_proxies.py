"""Which proxy a request takes, as curl, wget and pip read the environment."""

from __future__ import annotations

import base64

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, Not

from imagebroker.backends.backend import BackendHost, Options
from imagebroker.exceptions import ConfigError, TransferError
from imagebroker.policy.addresses import Policy
from imagebroker.policy.proxies import PersonalProxies, Proxy, excepted
from tests.servers.process import free_ports

PASSWORD = "kanarie-2b7f"


def site(environ: dict[str, str], scheme: str = "http", host: str = "images.example") -> str | None:
    found = PersonalProxies(environ).find(scheme, host, {"http": 80, "https": 443}[scheme])
    return None if found is None else found.site


@pytest.mark.parametrize(
    ("environ", "http", "https"),
    [
        ({}, None, None),
        ({"http_proxy": "http://p:1"}, "http://p:1", None),
        ({"https_proxy": "http://p:1"}, None, "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1"}, None, "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, None, None),
        ({"all_proxy": "http://p:1"}, "http://p:1", "http://p:1"),
        ({"ALL_PROXY": "http://p:1"}, "http://p:1", "http://p:1"),
        ({"https_proxy": "http://p:1", "HTTPS_PROXY": "http://q:1"}, None, "http://p:1"),
        ({"https_proxy": "", "HTTPS_PROXY": "http://q:1"}, None, None),
        ({"http_proxy": "", "all_proxy": "http://q:1"}, None, "http://q:1"),
        ({"http_proxy": "p:3128"}, "http://p:3128", None),
        ({"http_proxy": "p"}, "http://p:80", None),
        ({"http_proxy": "HTTP://P.example:3128/"}, "http://p.example:3128", None),
        ({"http_proxy": "http://[::1]:3128"}, "http://[::1]:3128", None),
        ({"http_proxy": "http://p:1", "no_proxy": "*"}, None, None),
        ({"http_proxy": "http://p:1", "NO_PROXY": "images.example"}, None, None),
        ({"http_proxy": "http://p:1", "no_proxy": "", "NO_PROXY": "*"}, "http://p:1", None),
    ],
)
def test_the_variables_are_read_as_others_read_them(
    environ: dict[str, str], http: str | None, https: str | None
) -> None:
    assert_that((site(environ), site(environ, "https")), Equals((http, https)))


@pytest.mark.parametrize(
    ("no_proxy", "host", "port"),
    [
        ("example.org", "example.org", 80),
        ("example.org", "a.b.example.org", 443),
        (".example.org", "a.example.org", 80),
        (".example.org", "example.org", 80),
        ("*.example.org", "a.example.org", 80),
        ("EXAMPLE.org", "Example.ORG.", 80),
        ("x, example.org ,y", "example.org", 80),
        ("x example.org", "example.org", 80),
        ("example.org:8080", "a.example.org", 8080),
        ("*", "anything", 1),
        ("localhost", "localhost", 80),
        ("10.0.0.1", "10.0.0.1", 80),
        ("10.0.0.1:8080", "10.0.0.1", 8080),
        ("10.0.0.0/8", "10.9.8.7", 80),
        ("10.0.0.1/8", "10.9.8.7", 80),
        ("192.168.0.0/255.255.0.0", "192.168.7.1", 80),
        ("::1", "[::1]", 80),
        ("[::1]", "::1", 80),
        ("[::1]:8080", "::1", 8080),
        ("fd00::/8", "fd12::1", 80),
        ("0:0:0:0:0:0:0:1", "::1", 80),
        ("10.0.0.0/8", "::ffff:10.0.0.1", 80),
    ],
)
def test_no_proxy_covers(no_proxy: str, host: str, port: int) -> None:
    assert_that(excepted(host, port, no_proxy), Is(True))


@pytest.mark.parametrize(
    ("no_proxy", "host", "port"),
    [
        ("", "example.org", 80),
        ("example.org", "badexample.org", 80),
        ("example.org", "example.org.evil", 80),
        ("org.example", "example.org", 80),
        ("example.org:8080", "example.org", 80),
        ("example.*", "example.org", 80),
        ("0.0.1", "10.0.0.1", 80),
        ("10.0.0.0/8", "11.0.0.1", 80),
        ("10.0.0.0/8", "10.example.org", 80),
        ("10.0.0.0/99", "10.0.0.1", 80),
        ("::1", "::2", 80),
        ("[::1]:80", "::1", 443),
        ("127.0.0.1", "localhost", 80),
        (" , ,, . ", "example.org", 80),
    ],
)
def test_no_proxy_does_not_cover(no_proxy: str, host: str, port: int) -> None:
    assert_that(excepted(host, port, no_proxy), Is(False))


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        (f"http://user:{PASSWORD}@p:1", f"user:{PASSWORD}"),
        (f"user:{PASSWORD}@p:1", f"user:{PASSWORD}"),
        ("http://user:a%3Ab%40c%2Fd%25@p:1", "user:a:b@c/d%"),
        ("http://user:a@b:c@p:1", "user:a@b:c"),
        ("http://d%5Cuser:x@p:1", "d\\user:x"),
        ("http://user@p:1", "user:"),
        ("http://user:p%C3%A9@p:1", "user:pé"),
    ],
)
def test_credentials_are_those_of_the_url(text: str, pair: str) -> None:
    proxy = Proxy.parse(text, "http_proxy")
    expected = base64.b64encode(pair.encode()).decode()
    assert_that(proxy.authorization, Equals(f"Basic {expected}"))
    assert_that(f"{proxy} {proxy!r} {proxy.title} {proxy.site}", Not(Contains(PASSWORD)))


@pytest.mark.parametrize(
    "text",
    [
        "https://p:1", "socks5://p:1", "socks5h://p", "ftp://p", "http://", "http://p:99999",
        "http://p:0", "http://p/path", "http://p?x", "http://p p", "http://a%3Ab:c@p:1",
        f"http://user:{PASSWORD}@",
    ],
)  # fmt: skip
def test_what_is_no_http_proxy_is_an_error_that_names_the_variable(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        site({"https_proxy": text}, "https")
    assert_that(str(caught.value), Contains("https_proxy"))
    assert_that(caught.value.hint, Contains("no_proxy"))
    assert_that(f"{caught.value} {caught.value.hint}", Not(Contains(PASSWORD)))
    assert_that(site({"https_proxy": text}, "http"), Is(None))  # of no other scheme


def host(personal: bool, **options: str) -> BackendHost:
    return BackendHost(
        name="http", options=Options(options), personal=personal, policy=Policy(trusting=True)
    )


@pytest.mark.promise("security-19")
def test_only_a_person_has_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://p:1")
    assert_that(host(False).proxy("http", "h", 80), Is(None))
    found = host(True).proxy("http", "h", 80)
    assert_that(found and found.site, Equals("http://p:1"))
    found = host(True, proxy="http://q:2").proxy("http", "h", 80)
    assert_that(found and found.site, Equals("http://q:2"))


def test_where_a_connection_fails_a_proxy_that_is_not_used_is_mentioned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("https_proxy", f"http://user:{PASSWORD}@p.example:3128")
    with pytest.raises(TransferError) as caught:
        host(False).connect_web("https", "127.0.0.1", port)
    assert_that(caught.value.hint, Contains("[backend:http]: proxy = http://p.example:3128"))
    assert_that(caught.value.hint, Not(Contains(PASSWORD)))
    for other in (("http", host(False)), ("https", host(True))):
        with pytest.raises(TransferError) as caught:
            other[1].connect_web(other[0], "127.0.0.1", port)
        assert_that(caught.value.hint, Not(Contains("proxy")))
    monkeypatch.setenv("no_proxy", "127.0.0.0/8")
    with pytest.raises(TransferError) as caught:
        host(False).connect_web("https", "127.0.0.1", port)
    assert_that(caught.value.hint, Not(Contains("proxy")))


@pytest.mark.promise("C27")
def test_where_the_proxy_cannot_be_reached_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("all_proxy", f"http://user:{PASSWORD}@127.0.0.1:{port}")
    person = host(True)
    with pytest.raises(TransferError) as caught:
        person.connect_web("http", "images.example", 80, person.proxy("http", "images.example", 80))
    assert_that(str(caught.value), Contains(f"the proxy http://127.0.0.1:{port} (all_proxy)"))
    assert_that(caught.value.hint, Contains("all_proxy"))
    assert_that(f"{caught.value} {caught.value.hint}", Not(Contains(PASSWORD)))
    assert_that(caught.value.retryable, Is(True))
