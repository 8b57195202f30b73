"""Redirects in every form, followed by the backend; of real servers where they write such."""

from __future__ import annotations

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength

from imagebroker.plugin import PolicyViolation
from tests.plugins.http_peers import answer, fetched, serving
from tests.servers.apache import Apache
from tests.servers.nginx import REDIRECT_CODES, Nginx
from tests.servers.raw import Connection, RawServer


def redirecting(location: str, code: int) -> RawServer:
    """Redirects what is asked for below /from, and serves the rest."""

    def script(connection: Connection, index: int) -> None:
        head = connection.read_head()
        target = location.format(port=server.port)
        moved = answer(b"gone", f"Location: {target}", status=f"{code} Elsewhere")
        connection.sendall(moved if head.startswith(b"GET /from") else answer(b"data"))

    server = RawServer(script)
    return server


@pytest.mark.promise("web-server-liberties")
@pytest.mark.parametrize("code", REDIRECT_CODES)
@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("//127.0.0.1:{port}/ok", "/ok"),
        ("HTTP://127.0.0.1:{port}/ok", "/ok"),
        ("http://127.0.0.1:{port}", "/"),
        ("http://127.0.0.1:{port}?k=v", "/?k=v"),
        ("/ok?from=https://origin.example.org/x", "/ok?from=https://origin.example.org/x"),
        ("../ok#part", "/ok"),
        ("/ok?name=my image.qcow2", "/ok?name=my%20image.qcow2"),
        ("/ok?x[]=1|2", "/ok?x%5B%5D=1%7C2"),
        ("/caf\xc3\xa9%20x", "/caf%C3%A9%20x"),
    ],
)
def test_a_redirect_of_any_form_is_followed(code: int, location: str, target: str) -> None:
    with redirecting(location, code) as server:
        assert_that(fetched(f"{server.url}/from/here?x=1"), Equals(b"data"))
        assert_that(server.received[1].split(b" ")[1].decode(), Equals(target))


@pytest.mark.parametrize(
    "location", ["//u:p@127.0.0.1:{port}/ok", "\\\\127.0.0.1:{port}\\ok", "/ok\tx", "//127.0.0.1:22/"]
)  # fmt: skip
def test_what_may_mean_another_server_is_not_followed(location: str) -> None:
    with redirecting(location, 302) as server:
        with pytest.raises(PolicyViolation):
            fetched(f"{server.url}/from")
        assert_that(server.connections, HasLength(1))


def test_an_empty_location_leads_to_the_same_place_and_not_for_ever() -> None:
    with serving(answer(b"", "Location: ", status="302 Found"), answer(b"data")) as server:
        assert_that(fetched(f"{server.url}/x?y=1"), Equals(b"data"))
        assert_that(server.received[1], Contains(b"GET /x?y=1 "))


def test_what_mod_alias_writes_is_followed(apache: Apache) -> None:
    (apache.root / "two words.img").write_bytes(b"data")
    assert_that(fetched(apache.url("two words.img", prefix="away")), Equals(b"data"))


@pytest.mark.parametrize(
    "location", ["/mit Leerzeichen.img", "http://{host}/mit Leerzeichen.img", "/mit%20Leerzeichen.img?a[]=b|c"]
)  # fmt: skip
def test_what_an_administrator_writes_into_apache_is_followed(
    location: str, apache: Apache
) -> None:
    (apache.root / "mit Leerzeichen.img").write_bytes(b"data")
    host = f"127.0.0.1:{apache.port}"
    with Apache(redirects={"/latest": location.format(host=host)}) as server:
        (server.root / "mit Leerzeichen.img").write_bytes(b"data")
        assert_that(fetched(server.url("latest")), Equals(b"data"))


def test_what_nginx_does_not_escape_is_followed(nginx: Nginx) -> None:
    (nginx.root / "three little words.img").write_bytes(b"data")
    url = nginx.redirect_to(f"{nginx.http_url}/three%20little%20words.img")
    assert_that(fetched(url), Equals(b"data"))
