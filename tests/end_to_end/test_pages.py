"""Web pages that pass for images, from real and made-up servers, into every destination."""

from __future__ import annotations

import gzip
import hashlib
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, Not

import imagebroker
from imagebroker.exceptions import ChecksumMismatch, FormatError, PolicyViolation
from tests.plugins.http_peers import answer, serving
from tests.scripted import IMAGES, Script
from tests.servers.nginx import Nginx
from tests.servers.raw import Connection, RawServer
from tests.verify.ways import WAYS, Way

HTTP = "[imagebroker]\nenabled_schemes = http\nretry_backoff = 0\n"
REACH = "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
PAGE = b"\xef\xbb\xbf\n<script>location.href='/login'</script>"
TEXT = b"The file is not there any more.\n" * 100
DISK = bytes(range(256)) * 40


@pytest.fixture
def broker(make_broker: Callable[..., imagebroker.Broker]) -> imagebroker.Broker:
    return make_broker(HTTP + REACH)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    made: Way = request.param(tmp_path)
    return made


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.mark.promise("C6", "security-3")
@pytest.mark.parametrize(
    ("body", "found"),
    [
        (PAGE, "a web page"),
        ("<?xml version='1.0'?><Error/>".encode("utf-16"), "a web page"),
        (TEXT, "text"),
        (b'{"message":"Unauthorized"}', "text"),
    ],
)
def test_it_is_refused_whatever_a_real_server_calls_it(
    body: bytes, found: str, broker: imagebroker.Broker, nginx: Nginx, way: Way
) -> None:
    for ending in ("qcow2", "html", "txt", "json"):
        name = f"{uuid.uuid4().hex}.{ending}"
        (nginx.root / name).write_bytes(body)
        with pytest.raises(FormatError, match=f"is {found}, not an image") as caught:
            way.get(broker, nginx.url(name))
        way.assert_nothing_came(len(body))
        assert_that(caught.value.hint, Contains("--no-check-format"))
        assert_that(broker.get(None, nginx.url(name)).disk_format, Is(None))


@pytest.mark.promise("security-3")
@pytest.mark.parametrize("kind", ["text/html", "application/octet-stream", ""])
def test_it_is_refused_by_its_first_bytes_however_they_come(
    kind: str, broker: imagebroker.Broker, way: Way
) -> None:
    """None of them are handed out, and no more are waited for than decide."""
    head, _, _ = answer(b"", f"Content-Type: {kind}" if kind else "X: y", length=False).partition(
        b"\r\n\r\n"
    )

    def script(connection: Connection, index: int) -> None:
        connection.read_head()
        connection.sendall(head + b"\r\nContent-Length: 1000000000\r\n\r\n")
        for byte in TEXT[:1024]:
            connection.sendall(bytes([byte]))
        server.closing.wait(60)

    with RawServer(script) as server:
        with pytest.raises(FormatError, match="is text, not an image"):
            way.get(broker, f"{server.url}/x")
        way.assert_nothing_came(1)


def test_a_reader_has_seen_none_of_it(broker: imagebroker.Broker) -> None:
    with serving(answer(TEXT)) as server, broker.open(None, f"{server.url}/x") as reader:
        with pytest.raises(FormatError):
            reader.read(1)


def test_a_digest_that_holds_proves_that_it_is_wanted(broker: imagebroker.Broker, way: Way) -> None:
    for body in (PAGE, TEXT, b"Forbidden"):
        with serving(answer(body, "Content-Type: text/html")) as server:
            data, evidence = way.get(broker, f"{server.url}/x", checksum=sha256(body))
            assert_that(data[-len(body) :], Equals(body))
            assert_that(evidence["disk_format"], Equals("raw"))
            pin = sha256(body).replace(":", "=")
            data, _ = way.get(broker, f"{server.url}/x#{pin}")
            assert_that(data[-len(body) :], Equals(body))


def test_a_digest_that_does_not_hold_says_what_came_instead(
    broker: imagebroker.Broker, way: Way
) -> None:
    for body, found in ((PAGE, "a web page"), (TEXT, "text")):
        with serving(answer(body)) as server:
            with pytest.raises(ChecksumMismatch) as caught:
                way.get(broker, f"{server.url}/x", checksum=sha256(DISK))
            assert_that(caught.value.hint, Contains(f"the server sent {found}"))
            way.assert_nothing_came(len(body))


@pytest.mark.promise("security-3")
def test_a_digest_of_the_server_proves_nothing(broker: imagebroker.Broker, way: Way) -> None:
    from base64 import b64encode

    digest = b64encode(hashlib.sha256(PAGE).digest()).decode()
    with serving(answer(PAGE, f"Repr-Digest: sha-256=:{digest}:")) as server:
        with pytest.raises(FormatError, match="is a web page"):
            way.get(broker, f"{server.url}/x")


def test_a_caller_who_knows_better_gets_it(broker: imagebroker.Broker, way: Way) -> None:
    for body in (PAGE, TEXT):
        with serving(answer(body)) as server:
            data, evidence = way.get(broker, f"{server.url}/x", check_format=False)
            assert_that(data[-len(body) :], Equals(body))
            assert_that(evidence, Not(Contains("disk_format")))


def test_what_is_to_be_unpacked_is_looked_at_before_and_not_after(
    broker: imagebroker.Broker, way: Way
) -> None:
    for decompress in ("auto", "gzip"):
        with serving(answer(PAGE)) as server, pytest.raises(FormatError, match="is a web page"):
            way.get(broker, f"{server.url}/x.gz", decompress=decompress)
        with serving(answer(gzip.compress(DISK))) as server:
            data, _ = way.get(broker, f"{server.url}/x.gz", decompress=decompress)
            assert_that(data[-len(DISK) :], Equals(DISK))


@pytest.mark.parametrize("body", [DISK, b"x" * 1000, b"QFI", bytes(5000), b"\xeb\x3c\x90 disk"])
def test_what_is_no_text_is_an_image_whatever_it_is_called(
    body: bytes, broker: imagebroker.Broker, way: Way
) -> None:
    for kind in ("text/html", "text/plain", "application/json"):
        with serving(answer(body, f"Content-Type: {kind}")) as server:
            data, _ = way.get(broker, f"{server.url}/x")
            assert_that(data[-len(body) :], Equals(body))


def test_the_cache_gives_no_text_to_a_caller_who_did_not_ask_for_it(
    make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    broker = make_broker(f"{HTTP}cache_dir = {tmp_path}/cache\ncache_size = 10M\n{REACH}")
    with serving(answer(TEXT, 'ETag: "1"')) as server:
        url = f"{server.url}/x"
        broker.download(None, url, tmp_path / "a", check_format=False)
        with pytest.raises(FormatError, match="is text"):
            broker.download(None, url, tmp_path / "b")


@pytest.mark.promise("C6")
def test_other_backends_may_have_text(scripted: object, tmp_path: Path) -> None:
    """A store, a directory or a Glance has what somebody has put there."""
    broker = scripted.broker  # type: ignore[attr-defined]
    IMAGES["/x"] = Script(TEXT)
    done = broker.download(None, "scripted://host/x", tmp_path / "x")
    assert_that(done.evidence["disk_format"], Equals("raw"))


class TestTheDeployer:
    """Whoever writes the config file has the last word on downloads."""

    @pytest.mark.promise("security-3")
    @pytest.mark.parametrize("line", ["inspect_formats = true", "allowed_formats = raw"])
    def test_what_is_written_down_is_not_weakened_by_a_call(
        self, line: str, make_broker: Callable[..., imagebroker.Broker], way: Way
    ) -> None:
        broker = make_broker(f"{HTTP}{line}\n{REACH}")
        with serving(answer(PAGE)) as server:
            with pytest.raises(PolicyViolation, match=line.split(" ")[0]):
                way.get(broker, f"{server.url}/x", check_format=False)
            assert_that(server.connections, Equals([]))
            with pytest.raises(FormatError) as caught:
                way.get(broker, f"{server.url}/x")
            assert_that(caught.value.hint, Not(Contains("--no-check-format")))

    def test_without_inspection_nothing_is_looked_at(
        self, make_broker: Callable[..., imagebroker.Broker], way: Way
    ) -> None:
        broker = make_broker(f"{HTTP}inspect_formats = false\n{REACH}")
        with serving(answer(PAGE)) as server:
            assert_that(way.get(broker, f"{server.url}/x")[0], Equals(PAGE))
