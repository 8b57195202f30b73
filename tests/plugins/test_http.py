"""The http backend against real servers, and what it sends."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import (
    Contains,
    Equals,
    GreaterThan,
    HasLength,
    Is,
    LessThan,
    MatchesStructure,
    Not,
    StartsWith,
)

import imagebroker
from imagebroker.model.reference import parse
from imagebroker.plugin import (
    ConfigError,
    ImageChanged,
    ImageNotFound,
    Limits,
    NotAuthorized,
    PolicyViolation,
    RangeIgnored,
    TransferError,
    UnsupportedOperation,
)
from tests.plugins.http_peers import (
    STALL,
    answer,
    fetched,
    hang,
    make_backend,
    opened,
    pour,
    server_context,
    serving,
    talking,
)
from tests.servers.images import random_file
from tests.servers.nginx import PASSWORD, REDIRECT_CODES, Nginx
from tests.servers.raw import Connection, RawServer
from tests.servers.tcp import Fault, TcpProxy

SIZE = 3_000_017


@pytest.fixture(scope="module")
def image(nginx: Nginx) -> Path:
    return random_file(nginx.root / "http.img", SIZE)


def test_a_probe_asks_for_one_byte_and_learns_what_open_does(nginx: Nginx, image: Path) -> None:
    backend = make_backend()
    ref = parse(nginx.url(image.name) + "?probe")
    with opened(nginx.url(image.name)) as source:
        expected = source.image
    found = backend.probe(None, ref)
    assert_that((found.version, found.size), Equals((expected.version, SIZE)))
    [asked] = nginx.requests("?probe", at_least=1)
    assert_that(asked.line, StartsWith("GET "))
    assert_that(asked.status, Equals(206))


@pytest.mark.parametrize("prefix", ["norange", "redirect/302"])
def test_a_probe_learns_it_from_servers_without_ranges_and_behind_redirects_too(
    nginx: Nginx, image: Path, prefix: str
) -> None:
    found = make_backend().probe(None, parse(nginx.url(image.name, prefix=prefix)))
    assert_that(found.size, Equals(SIZE))


def test_a_probe_of_what_may_not_be_read_is_refused(nginx: Nginx, image: Path) -> None:
    with pytest.raises(NotAuthorized):
        make_backend().probe(None, parse(nginx.url(image.name, prefix="private")))
    with pytest.raises(ImageNotFound):
        make_backend().probe(None, parse(nginx.url("is-not-there")))


def test_a_probe_of_an_empty_image_says_that_it_is_empty(nginx: Nginx) -> None:
    (nginx.root / "empty.img").write_bytes(b"")
    assert_that(make_backend().probe(None, parse(nginx.url("empty.img"))).size, Equals(0))


@pytest.fixture
def tls_files(nginx: Nginx) -> Path:
    return nginx.ca_file.parent


def secure(nginx: Nginx, **options: Any) -> Any:
    return make_backend(ca_file=str(nginx.ca_file), **options)


# -- the whole image ---------------------------------------------------------------------------


def test_a_read_brings_exactly_the_bytes_of_the_file(nginx: Nginx, image: Path) -> None:
    assert fetched(nginx.url(image.name)) == image.read_bytes()


def test_https_brings_exactly_the_bytes_of_the_file(nginx: Nginx, image: Path) -> None:
    assert fetched(f"{nginx.https_url}/{image.name}", secure(nginx)) == image.read_bytes()


def test_opening_and_reading_from_the_start_is_one_request(nginx: Nginx) -> None:
    random_file(nginx.root / "once.img", 100_000)
    fetched(nginx.url("once.img"))
    assert_that(nginx.requests("once.img", at_least=1), HasLength(1))


def test_the_record_has_what_the_server_says(nginx: Nginx, image: Path) -> None:
    os.utime(image, (1_700_000_000, 1_700_000_000))
    url = nginx.url(image.name)
    with opened(url) as source:
        assert_that(
            source.image,
            MatchesStructure.byEquality(
                ref=url,
                size=SIZE,
                id=None,
                name=image.name,
                updated_at=datetime.fromtimestamp(1_700_000_000, UTC),
                version=source.image.properties["etag"],
            ),
        )
        assert_that(source.image.version, StartsWith('"'))
        assert_that(source.image.properties["content_type"], Equals("application/octet-stream"))
        assert_that(source.seekable, Is(True))
        assert_that(source.parallel_reads, GreaterThan(1))
        assert make_backend().get(None, parse(url)) == source.image


def test_get_asks_with_head(nginx: Nginx) -> None:
    random_file(nginx.root / "head.img", 1000)
    assert make_backend().get(None, parse(nginx.url("head.img"))).size == 1000
    [request] = nginx.requests("head.img", at_least=1)
    assert_that(request.line, StartsWith("HEAD "))


@pytest.mark.parametrize("status", ["403 Forbidden", "405 No", "501 No"])
def test_get_asks_with_get_where_head_is_refused(status: str) -> None:
    with serving(answer(status=status), answer(b"12345")) as server:
        assert make_backend().get(None, parse(f"{server.url}/x")).size == 5
        assert_that(server.received[1], StartsWith(b"GET /x "))


def test_a_weak_etag_is_no_version() -> None:
    with (
        serving(answer(b"x", 'ETag: W/"1"', "Accept-Ranges: bytes")) as server,
        opened(f"{server.url}/x") as source,
    ):
        assert_that(source.image.version, Is(None))
        assert_that(source.image.properties["etag"], Equals('W/"1"'))
        assert_that(source.seekable, Is(True))
        assert_that(source.parallel_reads, Equals(1))


@pytest.mark.parametrize("etag", ["abc", '""', '"a"b"', "'a'"])
def test_an_etag_outside_the_grammar_is_no_version(etag: str) -> None:
    with serving(answer(b"x", f"ETag: {etag}")) as server, opened(f"{server.url}/x") as source:
        assert_that(source.image.version, Is(None))


def test_compression_is_not_asked_for(nginx: Nginx, image: Path) -> None:
    assert fetched(nginx.url(image.name, prefix="gzip")) == image.read_bytes()
    [*_, request] = nginx.requests("/gzip/", at_least=1)
    assert_that(request.accept_encoding, Equals("identity"))


def test_the_request_names_this_library_and_its_version(nginx: Nginx) -> None:
    random_file(nginx.root / "agent.img", 1000)
    fetched(nginx.url("agent.img"))
    [request] = nginx.requests("agent.img", at_least=1)
    assert_that(request.user_agent, Equals(f"imagebroker/{imagebroker.__version__}"))


@pytest.mark.parametrize(
    "target",
    [
        "/%0d%0aX:1",
        "/%0D%0AX:1",
        "/a%2Fb",
        "/%41//b/",
        "/a;b,c=d?e=%20f+g&h=?/",
        "/a?",
        "/",
        "/%c3%a9(x)!*'",
        "/%00",
    ],
)
def test_path_and_query_are_sent_as_they_are_written(target: str) -> None:
    with serving(answer(b"data")) as server:
        assert fetched(server.url + target) == b"data"
        assert_that(server.received[0], StartsWith(f"GET {target} HTTP/1.1\r\n".encode()))
        assert_that(server.received[0].lower(), Not(Contains(b"\nx:")))


def test_a_missing_file_is_not_found(nginx: Nginx) -> None:
    with pytest.raises(ImageNotFound):
        fetched(nginx.url("missing.img"))


@pytest.mark.parametrize("verb", ["create", "update", "delete", "get_all"])
def test_the_backend_is_read_only(verb: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "create": (None, None),
        "update": (None, {}, None, False),
        "delete": (None,),
        "get_all": (None,),
    }
    with pytest.raises(UnsupportedOperation):
        getattr(make_backend(), verb)(None, *arguments[verb])


# -- ranges ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 1), (0, SIZE), (1, None), (7, 8), (SIZE - 1, None), (1000, 2_000_000)]
)
def test_a_range_brings_exactly_its_bytes(
    nginx: Nginx, image: Path, start: int, stop: int | None
) -> None:
    assert fetched(nginx.url(image.name), None, start, stop) == image.read_bytes()[start:stop]


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (5, 5), (SIZE, None)])
def test_an_empty_range_asks_for_nothing(
    nginx: Nginx, image: Path, start: int, stop: int | None
) -> None:
    before = len(nginx.requests("GET"))
    with opened(nginx.url(image.name)) as source:
        assert list(source.read(start, stop)) == []
    assert_that(nginx.requests("GET", at_least=before + 1), HasLength(before + 1))


def test_ranges_are_conditional_on_the_version(nginx: Nginx) -> None:
    random_file(nginx.root / "condition.img", 1000)
    with opened(nginx.url("condition.img")) as source:
        b"".join(source.read(10, 20))
        b"".join(source.read(990))
    ranges = [r for r in nginx.requests("condition.img", at_least=3) if r.range]
    assert [r.range for r in ranges] == ["bytes=10-19", "bytes=990-"]
    assert {r.if_range.replace('\\"', '"') for r in ranges} == {source.image.version}


def test_parallel_reads_put_together_are_the_file(nginx: Nginx, image: Path) -> None:
    step = SIZE // 8 + 1
    with opened(nginx.url(image.name)) as source, ThreadPoolExecutor(8) as pool:
        parts = pool.map(
            lambda at: b"".join(source.read(at, min(at + step, SIZE))), range(0, SIZE, step)
        )
        assert b"".join(parts) == image.read_bytes()


def test_ranges_one_after_the_other_share_a_connection(nginx: Nginx) -> None:
    random_file(nginx.root / "kept.img", 100_000)
    for url in nginx.url("kept.img"), f"{nginx.https_url}/kept.img":
        before = len(nginx.requests("kept.img"))
        with opened(url, secure(nginx)) as source:
            parts = [b"".join(source.read(at, at + 20_000)) for at in range(0, 100_000, 20_000)]
        assert b"".join(parts) == (nginx.root / "kept.img").read_bytes()
        requests = nginx.requests("kept.img", at_least=before + 5)[before:]
        # The first range comes from the answer to open, which is then dropped.
        assert_that({r.connection for r in requests if r.range}, HasLength(1))


def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    def part(first: int, data: bytes) -> bytes:
        end = first + len(data) - 1
        return answer(
            data, f"Content-Range: bytes {first}-{end}/9", 'ETag: "1"', status="206 Partial Content"
        )

    whole = answer(b"abcdefghi", 'ETag: "1"', "Accept-Ranges: bytes")
    with (
        serving(whole, part(3, b"def"), part(6, b"ghi")) as server,
        opened(f"{server.url}/x") as source,
    ):
        assert b"".join(source.read(3, 6)) == b"def"
        assert b"".join(source.read(6)) == b"ghi"


def test_a_server_that_closes_a_kept_connection_while_we_ask_is_asked_once_more() -> None:
    part = answer(b"de", "Content-Range: bytes 3-4/5", 'ETag: "1"', status="206 Partial Content")

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(part if index else answer(b"abcde", 'ETag: "1"', "Accept-Ranges: bytes"))
        if index == 1:
            connection.read_head()  # it was open when the second request came, and is closed now

    with RawServer(script) as server, opened(f"{server.url}/x") as source:
        assert b"".join(source.read(3, 5)) == b"de"
        assert b"".join(source.read(3, 5)) == b"de"
        assert_that(server.connections, HasLength(3))


def test_what_a_server_sends_before_it_is_asked_is_not_taken_for_an_answer() -> None:
    part = answer(b"de", "Content-Range: bytes 3-4/5", 'ETag: "1"', status="206 Partial Content")
    sent = threading.Event()

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(part if index else answer(b"abcde", 'ETag: "1"', "Accept-Ranges: bytes"))
        if index == 1:
            connection.sendall(part.replace(b"de", b"XX"))
            sent.set()
            connection.wait_for_close(5)

    with RawServer(script) as server, opened(f"{server.url}/x") as source:
        assert b"".join(source.read(3, 5)) == b"de"
        assert sent.wait(5)
        assert b"".join(source.read(3, 5)) == b"de"


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_transfer_goes_on_where_it_stopped(nginx: Nginx, image: Path, reset: bool) -> None:
    fault = Fault(cut_after=1_500_000, reset=reset)
    with (
        TcpProxy("127.0.0.1", nginx.ports["http"], fault, only=0) as proxy,
        opened(f"http://127.0.0.1:{proxy.port}/{image.name}") as source,
    ):
        got = bytearray()
        with pytest.raises(TransferError):
            pour(source.read(), got)
        assert_that(len(got), GreaterThan(1_400_000))
        got += b"".join(source.read(len(got)))
        assert got == image.read_bytes()


def test_a_file_that_changed_is_noticed_at_every_later_request(nginx: Nginx) -> None:
    path = random_file(nginx.root / "changing.img", 1000)
    with opened(nginx.url(path.name)) as source:
        b"".join(source.read())
        path.write_bytes(b"something else" * 100)
        for start, stop in (10, 20), (10, None), (0, 10), (0, None):
            with pytest.raises(ImageChanged):
                list(source.read(start, stop))


def test_a_weak_sign_of_change_is_enough_to_stop(nginx: Nginx) -> None:
    path = random_file(nginx.root / "weakly.img", 1000)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    with opened(nginx.url(path.name, prefix="noetag")) as source:
        assert_that(source.image.version, Is(None))
        assert b"".join(source.read(10, 20)) == path.read_bytes()[10:20]
        os.utime(path, (1_700_000_001, 1_700_000_001))
        with pytest.raises(ImageChanged):
            list(source.read(10, 20))


def test_a_server_that_ignores_ranges_says_so_once(nginx: Nginx, image: Path) -> None:
    with opened(nginx.url(image.name, prefix="norange")) as source:
        with pytest.raises(RangeIgnored):
            list(source.read(10))
        assert_that(source.seekable, Is(False))
        assert b"".join(source.read()) == image.read_bytes()


# -- redirects ---------------------------------------------------------------------------------


@pytest.mark.parametrize("code", REDIRECT_CODES)
def test_a_redirect_is_followed(nginx: Nginx, image: Path, code: int) -> None:
    with opened(nginx.url(image.name, prefix=f"redirect/{code}")) as source:
        assert b"".join(source.read()) == image.read_bytes()
        assert b"".join(source.read(10, 20)) == image.read_bytes()[10:20]
        assert source.image.ref == nginx.url(image.name, prefix=f"redirect/{code}")


def test_later_requests_go_where_the_redirect_led(nginx: Nginx) -> None:
    random_file(nginx.root / "mirror.img", 1000)
    with opened(nginx.url("mirror.img", prefix="redirect/302")) as source:
        list(source.read(1, 2))
        list(source.read(2, 3))
    assert_that(nginx.requests("/redirect/302/mirror.img", at_least=1), HasLength(1))


def test_an_address_that_was_valid_for_a_moment_is_asked_for_again() -> None:
    part = answer(b"de", "Content-Range: bytes 3-4/5", 'ETag: "1"', status="206 Partial Content")
    whole = answer(b"abcde", 'ETag: "1"', "Accept-Ranges: bytes")
    expired = answer(b"expired", status="403 Forbidden")
    with (
        serving(whole, expired, part) as mirror,
        serving(
            answer(b"", f"Location: {mirror.url}/1", status="302 Found"),
            answer(b"", f"Location: {mirror.url}/2", status="302 Found"),
        ) as server,
        opened(f"{server.url}/x") as source,
    ):
        assert b"".join(source.read(3)) == b"de"
        assert [each.split()[1] for each in mirror.received] == [b"/1", b"/1", b"/2"]


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "scp://127.0.0.1/x",
        "gopher://127.0.0.1/x",
        "data:text/plain,x",
        "//10.0.0.1/x",
        "\\\\127.0.0.2\\x",
        "http://u@127.0.0.1/x",
        "http://u:p@127.0.0.1/x",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::ffff:169.254.169.254]/",
        "http://10.0.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://127.0.0.1:22/",
        "http://127.0.0.1:6379/",
        "http://h\xe9/",
    ],
)
def test_a_redirect_to_somewhere_forbidden_is_refused(target: str) -> None:
    with serving(answer(b"", f"Location: {target}", status="302 Found")) as server:
        with pytest.raises(PolicyViolation):
            fetched(f"{server.url}/x")
        assert_that(server.connections, HasLength(1))


def test_a_redirect_to_an_address_that_is_not_allowed_reaches_nobody() -> None:
    with (
        serving(answer(b"secret")) as inner,
        serving(
            answer(b"", f"Location: http://127.0.0.1:{inner.port}/", status="302 Found")
        ) as server,
    ):
        backend = make_backend(reach="127.0.0.2/32")
        object.__setattr__(
            backend.host.policy, "configured", frozenset({("127.0.0.1", server.port)})
        )
        with pytest.raises(PolicyViolation):
            fetched(f"{server.url}/x", backend)
        assert_that(inner.connections, HasLength(0))


def test_a_redirect_from_https_to_http_is_refused(nginx: Nginx) -> None:
    with serving(answer(b"plain")) as server:
        url = f"{nginx.https_url}/redirect-to/302/{server.url}/x"
        with pytest.raises(PolicyViolation):
            fetched(url, secure(nginx))
        assert_that(server.connections, HasLength(0))


def test_redirects_end_at_the_limit() -> None:
    with serving(answer(b"", "Location: /again", status="302 Found")) as server:
        with pytest.raises(TransferError) as caught:
            fetched(f"{server.url}/x")
        assert_that(caught.value.retryable, Is(False))
        assert_that(server.connections, HasLength(Limits().redirects + 1))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Location: /a", "Location: /b"],
        ["Location: /a", "Location: /a"],
        ["Location: /a\rX: y"],
        ["Location: /" + "a" * 100_000],
    ],
)
def test_a_redirect_without_exactly_one_usable_location_fails(headers: list[str]) -> None:
    with serving(answer(b"", *headers, status="302 Found")) as server:
        with pytest.raises(TransferError):
            fetched(f"{server.url}/x")
        assert_that(server.connections, HasLength(1))


# -- credentials -------------------------------------------------------------------------------


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


def test_credentials_do_not_follow_a_redirect_to_another_port() -> None:
    with (
        serving(answer(b"data")) as other,
        serving(answer(b"", f"Location: {other.url}/y", status="302 Found")) as server,
    ):
        assert fetched(f"{server.url}/x", with_password(server.url)) == b"data"
        assert_that(server.received[0], Contains(b"Authorization: Basic "))
        assert_that(other.received[0].lower(), Not(Contains(b"authorization")))


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


# -- TLS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("certificate", ["wrong-host", "expired", "self-signed"])
def test_a_bad_certificate_is_refused_before_the_request(nginx: Nginx, certificate: str) -> None:
    before = len(nginx.requests())
    with pytest.raises(PolicyViolation) as caught:
        fetched(f"{nginx.tls_url(certificate)}/x", secure(nginx))
    assert_that(caught.value.hint, Not(Equals("")))
    assert_that(nginx.requests(), HasLength(before))


def test_a_certificate_of_an_unknown_authority_is_refused(nginx: Nginx, image: Path) -> None:
    with pytest.raises(PolicyViolation):
        fetched(f"{nginx.https_url}/{image.name}")


def test_insecure_and_allow_insecure_together_believe_any_certificate(
    nginx: Nginx, image: Path
) -> None:
    backend = make_backend(insecure=True, allow_insecure=True)
    for certificate in "self-signed", "wrong-host", "expired":
        url = f"{nginx.tls_url(certificate)}/{image.name}"
        assert fetched(url, backend) == image.read_bytes()


def test_an_older_tls_than_min_tls_is_refused(nginx: Nginx, tls_files: Path) -> None:
    context = server_context(tls_files)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with serving(answer(b"data"), tls=context) as server:
        assert fetched(f"{server.url}/x", secure(nginx)) == b"data"
        with pytest.raises(TransferError) as caught:
            fetched(f"{server.url}/x", secure(nginx, min_tls="TLSv1.3"))
        assert_that(caught.value.retryable, Is(False))


def test_tls_to_a_plain_server_fails_without_a_retry(nginx: Nginx) -> None:
    with pytest.raises(TransferError) as caught:
        fetched(f"https://127.0.0.1:{nginx.ports['http']}/x", secure(nginx))
    assert_that(caught.value.retryable, Is(False))


def test_a_tls_handshake_that_stalls_ends_in_time(nginx: Nginx) -> None:
    backend = make_backend(limits=Limits(connect_timeout=STALL), ca_file=str(nginx.ca_file))
    with (
        RawServer(lambda connection, _: hang(connection)) as server,
        pytest.raises(TransferError),
    ):
        fetched(f"https://127.0.0.1:{server.port}/x", backend)


def test_an_end_without_close_notify_is_a_cut(nginx: Nginx, tls_files: Path) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(answer(b"data", length=False))
        os.close(connection.detach())  # FIN, and no word of TLS

    with RawServer(script, tls=server_context(tls_files)) as server, pytest.raises(TransferError):
        fetched(f"{server.url}/x", secure(nginx))


def test_a_proper_end_of_tls_ends_an_answer_without_length(nginx: Nginx, tls_files: Path) -> None:
    with serving(answer(b"data", length=False), tls=server_context(tls_files)) as server:
        assert fetched(f"{server.url}/x", secure(nginx)) == b"data"


# -- proxy and environment ---------------------------------------------------------------------


def test_the_environment_configures_nothing(
    nginx: Nginx, image: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login canary password canary\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    with RawServer(lambda connection, _: None) as trap:
        for name in "http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY":
            monkeypatch.setenv(name, trap.url)
        backend = secure(nginx)
        assert fetched(nginx.url(image.name), backend) == image.read_bytes()
        assert fetched(f"{nginx.https_url}/{image.name}", backend) == image.read_bytes()
        with pytest.raises(NotAuthorized):
            fetched(nginx.url(image.name, prefix="private"), backend)
        assert_that(trap.connections, HasLength(0))
    assert not (tmp_path / "keys").exists()


def test_a_proxy_is_sent_the_absolute_url_of_plain_http() -> None:
    with serving(answer(b"data")) as proxy:
        backend = make_backend(proxy=proxy.url)
        assert fetched("http://images.example/a?b=%20", backend) == b"data"
        assert_that(
            proxy.received[0],
            StartsWith(b"GET http://images.example/a?b=%20 HTTP/1.1\r\nHost: images.example\r\n"),
        )


def tunnelling(port: int) -> RawServer:
    """A proxy that connects every CONNECT to one port of this host."""

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(b"HTTP/1.1 200 Connection established\r\nContent-Length: 7\r\n\r\n")
        with socket.create_connection(("127.0.0.1", port)) as server:

            def upwards() -> None:
                try:
                    while data := connection.recv(65536):
                        server.sendall(data)
                    server.shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # one side is gone, and so is the tunnel

            pump = threading.Thread(target=upwards, daemon=True)
            pump.start()
            while data := server.recv(65536):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_RDWR)
            pump.join(5)

    return RawServer(script)


def test_a_proxy_connects_to_the_server_of_https(nginx: Nginx, image: Path) -> None:
    port = nginx.ports["good"]
    with tunnelling(port) as proxy:
        backend = secure(nginx, proxy=proxy.url)
        assert fetched(f"https://localhost:{port}/{image.name}", backend) == image.read_bytes()
        assert_that(proxy.received[0], StartsWith(b"CONNECT localhost:%d HTTP/1.1\r\n" % port))
        assert_that(proxy.received[0], Not(Contains(b"GET")))


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (answer(status="407 Proxy Authentication Required"), NotAuthorized),
        (answer(status="403 Forbidden"), NotAuthorized),
        (answer(status="502 Bad Gateway"), TransferError),
        (b"HTTP/1.1 200 OK\r\n\r\n\x15\x03\x01", TransferError),
        (b"SSH-2.0-x\r\n", TransferError),
        (b"", TransferError),
    ],
)
def test_a_proxy_that_does_not_connect_is_an_error(reply: bytes, error: type[Exception]) -> None:
    with serving(reply) as proxy, pytest.raises(error):
        fetched("https://images.example/a", make_backend(proxy=proxy.url))


def test_the_address_policy_holds_for_the_proxy() -> None:
    with serving(answer(b"data")) as proxy:
        with pytest.raises(PolicyViolation):
            fetched("http://images.example/", make_backend(proxy=proxy.url, reach="10.0.0.0/8"))
        assert_that(proxy.connections, HasLength(0))


# -- options -----------------------------------------------------------------------------------


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


# -- ends, secrets, costs ----------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
def test_close_from_another_thread_ends_a_read_that_waits(
    nginx: Nginx, tls_files: Path, tls: bool
) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(answer(b"x" * 1000).replace(b": 1000", b": 2000"))
        hang(connection)

    with RawServer(script, tls=server_context(tls_files) if tls else None) as server:
        backend = make_backend(
            limits=Limits(connect_timeout=5, stall_timeout=20), ca_file=str(nginx.ca_file)
        )
        with opened(f"{server.url}/x", backend) as source:
            chunks = source.read()
            assert_that(len(next(chunks)), Equals(1000))
            threading.Timer(0.1, source.close).start()
            with pytest.raises(TransferError):
                next(chunks)
            with pytest.raises(TransferError):
                list(source.read(5))


def test_closing_is_no_end_of_an_answer_without_length() -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(answer(b"half of it", length=False))
        hang(connection)

    with RawServer(script) as server, opened(f"{server.url}/x") as source:
        chunks = source.read()
        next(chunks)
        threading.Timer(0.1, source.close).start()
        with pytest.raises(TransferError):
            next(chunks)


def test_the_core_can_abort_a_read_over_tls(nginx: Nginx, tls_files: Path) -> None:
    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(answer(b"half of it").replace(b": 10", b": 20"))
        hang(connection)

    with RawServer(script, tls=server_context(tls_files)) as server:
        backend = make_backend(
            limits=Limits(connect_timeout=5, stall_timeout=20), ca_file=str(nginx.ca_file)
        )
        with opened(f"{server.url}/x", backend) as source:
            chunks = source.read()
            next(chunks)
            threading.Timer(0.1, backend.host.abort, (threading.get_ident(),)).start()
            with pytest.raises(TransferError):
                next(chunks)


def test_a_read_that_is_not_finished_lets_go_of_its_connection(nginx: Nginx, image: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with opened(nginx.url(image.name)) as source:
        chunks = source.read()
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]
    assert_that(os.listdir("/proc/self/fd"), HasLength(before))


def test_no_secret_is_shown(
    caplog: pytest.LogCaptureFixture, nginx: Nginx, tls_files: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    canary = "canary7392"
    token = base64.b64encode(f"user:{canary}".encode()).decode()
    shown = []
    replies = [
        answer(b"abc", 'ETag: "1"', "Accept-Ranges: bytes"),
        answer(b"", status="404 Not Found"),
        answer(b"", status="500 Oops"),
        answer(b"abc", "Content-Encoding: gzip"),
        answer(b"abc").replace(b": 3", b": 4"),
        answer(b"", f"Location: ?{canary}", status="302 Found"),
        b"broken",
    ]
    for reply in replies:
        with serving(reply) as server:
            backend = make_backend(username="user", password=canary, endpoint=[server.url])
            shown += [repr(backend), repr(backend.host)]
            for query in f"?X-Signature={canary}", f"?{canary}":
                try:
                    with opened(f"{server.url}/x{query}", backend) as source:
                        shown += [repr(source), repr(vars(source).get("_session"))]
                        list(source.read())
                        list(source.read(1))
                except imagebroker.ImageBrokerError as error:
                    shown += [str(error), repr(error), error.hint, str(error.__cause__)]
    text = "\n".join([*shown, caplog.text])
    assert_that(text, Not(Contains(canary)))
    assert_that(text, Not(Contains(token)))


def test_a_refused_redirect_shows_no_query() -> None:
    location = "Location: file:///?token=canary7392"
    with (
        serving(answer(b"", location, status="302 Found")) as server,
        pytest.raises(PolicyViolation) as caught,
    ):
        fetched(f"{server.url}/x?signature=canary7392")
    assert_that(str(caught.value), Not(Contains("canary7392")))


def test_importing_the_plugin_loads_no_network_library() -> None:
    code = (
        "import sys, imagebroker_http\n"
        "print([m for m in ('ssl', 'http.client', 'urllib3', 'requests') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_memory_does_not_grow_with_the_image() -> None:
    size = 64 << 20

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        block = bytes(1 << 20)
        for _ in range(size >> 20):
            connection.sendall(block)

    import tracemalloc

    with RawServer(script) as server, opened(f"{server.url}/x") as source:
        tracemalloc.start()
        try:
            count = sum(map(len, source.read()))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert_that(count, Equals(size))
    assert_that(peak, LessThan(8 << 20))


# -- through the broker ------------------------------------------------------------------------


CONFIG = """
[imagebroker]
enabled_schemes = http, https
retry_backoff = 0
stall_timeout = 1
[backend:http]
allowed_networks = 127.0.0.0/8
{}
"""


def test_a_download_through_the_broker_is_the_file(
    nginx: Nginx, image: Path, make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    broker = make_broker(CONFIG.format(f"ca_file = {nginx.ca_file}"))
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    for url in nginx.url(image.name), f"{nginx.https_url}/{image.name}":
        done = broker.download(None, url, tmp_path / "dest", checksum=f"sha256:{digest}")
        assert_that(done.evidence["sha256"], Equals(digest))
        assert (tmp_path / "dest").read_bytes() == image.read_bytes()


def test_a_download_through_the_broker_survives_cuts(
    nginx: Nginx, image: Path, make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    broker = make_broker(CONFIG.format(""))
    with TcpProxy("127.0.0.1", nginx.ports["http"], Fault(cut_after=700_000)) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/{image.name}"
        done = broker.download(None, url, tmp_path / "dest")
        assert_that(proxy.connections, GreaterThan(4))
    assert (tmp_path / "dest").read_bytes() == image.read_bytes()
    assert_that(done.resumed_from, GreaterThan(2_000_000))


def test_a_server_that_ignores_ranges_is_read_again_from_the_start(
    make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    data = bytes(range(256)) * 1000
    whole = answer(data, 'ETag: "1"', "Accept-Ranges: bytes")
    broker = make_broker(CONFIG.format(""))
    with serving(whole[:-1000], whole, whole) as server:
        broker.download(None, f"{server.url}/x", tmp_path / "dest")
    assert (tmp_path / "dest").read_bytes() == data
