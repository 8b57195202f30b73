"""`HttpSource` for plugins: a URL, headers, an expected version; and the key with a passphrase."""

from __future__ import annotations

import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Not, StartsWith

from imagebroker.exceptions import ConfigError, ImageChanged, NotAuthorized
from imagebroker.model.reference import parse
from imagebroker.plugin import TransferError, http
from tests.plugins.http_peers import answer, make_backend, server_context, serving
from tests.servers.images import random_file
from tests.servers.nginx import Nginx
from tests.servers.raw import Connection, RawServer

REF = parse("http://elsewhere/image")
WHOLE = answer(b"0123456789", 'ETag: "1"', "Accept-Ranges: bytes")


def client(**options: Any) -> http.Client:
    return http.Client(make_backend(**options).host)


def source(url: str, **arguments: Any) -> http.HttpSource:
    return http.HttpSource(client(), REF, url, **arguments)


def test_the_record_has_the_ref_and_the_bytes_come_from_the_url(nginx: Nginx) -> None:
    path = random_file(nginx.root / "behind.img", 100_000)
    opened = source(nginx.url(path.name))
    assert_that((opened.image.ref, opened.image.size), Equals((REF.text, 100_000)))
    assert_that(b"".join(opened.read()), Equals(path.read_bytes()))
    assert_that(b"".join(opened.read(500, 900)), Equals(path.read_bytes()[500:900]))
    opened.close()


def test_its_headers_go_with_every_request_and_to_no_other_origin() -> None:
    part = answer(b"45", "Content-Range: bytes 4-5/10", 'ETag: "1"', status="206 Partial Content")
    with serving(WHOLE, part) as server:
        opened = source(f"{server.url}/x", headers={"X-Token": "canary-77"})
        assert_that(b"".join(opened.read(4, 6)), Equals(b"45"))
        opened.close()
        for received in server.received:
            assert_that(received, Contains(b"X-Token: canary-77"))
    with (
        serving(WHOLE) as other,
        serving(answer(b"", f"Location: {other.url}/y", status="302 There")) as server,
    ):
        source(f"{server.url}/x", headers={"X-Token": "canary-77"}).close()
        assert_that(other.received[0], Not(Contains(b"canary-77")))


def test_a_token_that_cannot_be_sent_is_not_shown() -> None:
    with serving(WHOLE) as server, pytest.raises(TransferError) as caught:
        source(f"{server.url}/x", headers={"X-Token": "canary-77\r\nX: y"})
    assert_that(f"{caught.value!r} {caught.value.__cause__}", Not(Contains("canary-77")))


@pytest.mark.parametrize(
    "reply",
    [answer(b"0123456789", 'ETag: "2"'), answer(b"0123456789"), answer(b"", status="412 No")],
)
def test_another_version_than_the_expected_one_is_a_change(reply: bytes) -> None:
    with serving(WHOLE, reply) as server:
        opened = source(f"{server.url}/x", version='"1"')
        assert_that(b"".join(opened.read()), Equals(b"0123456789"))
        opened.close()
        with pytest.raises(ImageChanged):
            source(f"{server.url}/x", version='"1"')
        for received in server.received:
            assert_that(received, Contains(b'If-Match: "1"'))


def test_nginx_compares_the_expected_version(nginx: Nginx) -> None:
    path = random_file(nginx.root / "expected.img", 1000)
    opened = source(nginx.url(path.name))
    version = opened.image.version
    opened.close()
    source(nginx.url(path.name), version=version).close()
    path.write_bytes(b"something else")
    with pytest.raises(ImageChanged):
        source(nginx.url(path.name), version=version)


def test_a_source_that_was_refused_holds_no_connection() -> None:
    closed: list[bool] = []

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(answer(b"", status="403 No"))
        closed.append(connection.wait_for_close(20))

    with RawServer(script) as server:
        with pytest.raises(NotAuthorized):
            source(f"{server.url}/x")
        server.wait_for_connections(1)
        while not closed:
            time.sleep(0.01)
    assert_that(closed, Equals([True]))


def test_a_source_keeps_its_connection_between_ranges_and_closes_it_at_the_end(
    nginx: Nginx,
) -> None:
    random_file(nginx.root / "between.img", 50_000)
    opened = source(nginx.url("between.img"))
    for start in range(0, 50_000, 10_000):
        list(opened.read(start, start + 10_000))
    opened.close()
    ranges = [each for each in nginx.requests("between.img", at_least=5) if each.range]
    assert_that({each.connection for each in ranges}, HasLength(1))


def locked_key(nginx: Nginx, tmp_path: Path) -> str:
    plain, locked = nginx.ca_file.parent / "good.pem", tmp_path / "locked.pem"
    command = [
        "openssl",
        "pkey",
        "-in",
        plain,
        "-aes128",
        "-passout",
        "pass:open sesame",
        "-out",
        locked,
    ]
    subprocess.run(command, check=True, capture_output=True)
    locked.chmod(0o600)
    return str(locked)


def test_a_client_key_is_opened_with_its_passphrase(nginx: Nginx, tmp_path: Path) -> None:
    shown: list[bool] = []

    def script(connection: Connection, index: int) -> None:
        assert isinstance(connection, ssl.SSLSocket)
        shown.append(bool(connection.getpeercert()))
        connection.read_head()
        connection.sendall(WHOLE)

    tls = server_context(nginx.ca_file.parent)
    tls.load_verify_locations(nginx.ca_file)
    tls.verify_mode = ssl.CERT_OPTIONAL
    files = {
        "cert_file": str(nginx.ca_file.parent / "good.pem"),
        "key_file": locked_key(nginx, tmp_path),
    }
    with RawServer(script, tls=tls) as server:
        made = client(ca_file=str(nginx.ca_file), key_passphrase="open sesame", **files)
        http.HttpSource(made, REF, f"{server.url}/x").close()
    assert_that(shown, Equals([True]))


@pytest.mark.parametrize("passphrase", [None, "", "another one"])
def test_a_wrong_passphrase_is_found_at_the_start(
    nginx: Nginx, tmp_path: Path, passphrase: str | None
) -> None:
    files = {
        "cert_file": str(nginx.ca_file.parent / "good.pem"),
        "key_file": locked_key(nginx, tmp_path),
    }
    with pytest.raises(ConfigError) as caught:
        client(key_passphrase=passphrase, **files)
    assert_that(str(caught.value), StartsWith("[backend:http] "))
    assert_that(str(caught.value), Not(Contains("another one")))
