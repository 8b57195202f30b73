"""What is asked of a server about a file that is up to date: one request, a conditional one."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker import Broker, Download, NotAuthorized
from tests.servers.openstack import OpenStack
from tests.servers.raw import Connection, RawServer

DATA = os.urandom(200_000)
STRONG, WEAK = '"one"', 'W/"one"'


class Web(NamedTuple):
    """A server, what it was asked, and what it answers to a request that names its ETag."""

    server: RawServer
    asked: list[str]
    say: dict[str, str]

    @property
    def url(self) -> str:
        return f"{self.server.url}/disk.raw"


@pytest.fixture
def web() -> Iterator[Web]:
    asked: list[str] = []
    say = {"etag": STRONG, "same": "304 Not Modified", "etag of 304": STRONG, "otherwise": "200 OK"}

    def serve(connection: Connection, number: int) -> None:
        head = connection.read_head().decode("latin-1").lower()
        asked.append(head)
        if f"if-none-match: {STRONG}" in head and say["same"]:
            etag = f"ETag: {say['etag of 304']}\r\n" if say["etag of 304"] else ""
            text = f"HTTP/1.1 {say['same']}\r\n{etag}Connection: close\r\n\r\n"
            connection.sendall(text.encode())
            return
        body, status = DATA, say["otherwise"]
        if "range: bytes=0-0" in head:
            body = DATA[:1]
            status = f"206 Partial\r\nContent-Range: bytes 0-0/{len(DATA)}"
        connection.sendall(
            f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nETag: {say['etag']}\r\n"
            "Connection: close\r\n\r\n".encode()
            + body
        )

    with RawServer(serve) as server:
        yield Web(server, asked, say)


@pytest.fixture
def download(
    make_broker: Callable[..., Broker], web: Web, tmp_path: Path
) -> Callable[..., Download]:
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = http\n[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )

    def call(**how: object) -> Download:
        web.asked.clear()
        return broker.download(None, web.url, tmp_path / "disk.raw", **how)  # type: ignore[arg-type]

    return call


@pytest.mark.promise("up-to-date")
def test_one_request_that_names_the_version_is_enough(
    download: Callable[..., Download], web: Web
) -> None:
    download()
    again = download()
    assert_that((again.via, again.size, len(web.asked)), Equals(("present", len(DATA), 1)))
    assert_that(web.asked[0], Contains('if-none-match: "one"'))


@pytest.mark.promise("up-to-date")
def test_so_it_is_where_a_digest_is_required_too(
    download: Callable[..., Download], web: Web
) -> None:
    digest = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
    download(checksum=digest)
    assert_that((download(checksum=digest).via, len(web.asked)), Equals(("present", 1)))


@pytest.mark.promise("up-to-date")
@pytest.mark.parametrize("etag", [WEAK, '"two"', ""])
def test_a_304_that_does_not_name_this_strong_version_proves_nothing(
    etag: str, download: Callable[..., Download], web: Web
) -> None:
    """If-None-Match takes a weak ETag for the same; so the server is asked without it."""
    download()
    web.say["etag of 304"] = etag
    if etag:
        web.say["etag"] = etag
    again = download()
    assert_that(again.via, Equals("backend" if etag else "present"))
    assert_that(web.asked[1], Contains("range: bytes=0-0"))


@pytest.mark.promise("up-to-date")
def test_a_server_that_ignores_the_condition_is_believed_by_its_etag(
    download: Callable[..., Download], web: Web
) -> None:
    download()
    web.say["same"] = ""
    assert_that((download().via, len(web.asked)), Equals(("present", 1)))
    web.say["etag"] = '"two"'
    assert_that(download().via, Equals("backend"))


@pytest.mark.promise("up-to-date")
def test_who_may_not_read_it_any_more_is_told_so(
    download: Callable[..., Download], web: Web
) -> None:
    download()
    web.say["same"] = web.say["otherwise"] = "403 Forbidden"
    with pytest.raises(NotAuthorized):
        download()


@pytest.mark.promise("up-to-date")
def test_glance_is_asked_for_the_record_and_for_one_byte(
    openstack: OpenStack,
    make_broker: Callable[..., Broker],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who may see a record may not be allowed to read its data, so that byte is needed."""
    image = openstack.create_image(DATA)
    options = "\n".join(f"{name} = {v}" for name, v in openstack.auth_options("red").items())
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = glance\ndefault_backend = glance\n"
        f"[backend:glance]\n{options}\nallowed_networks = 127.0.0.0/8\n"
    )
    assert_that(broker.download(None, image, tmp_path / "disk").via, Equals("backend"))
    with caplog.at_level(logging.DEBUG, "urllib3.connectionpool"):
        assert_that(broker.download(None, image, tmp_path / "disk").via, Equals("present"))
    sent = [each.getMessage() for each in caplog.records if "/v2/images/" in each.getMessage()]
    assert_that([f"/{image} " in sent[0], f"/{image}/file " in sent[1], len(sent)],
                Equals([True, True, 2]))  # fmt: skip
