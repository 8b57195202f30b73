"""The whole image from real servers, and what is asked of them."""

from __future__ import annotations

import os
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
    MatchesStructure,
    Not,
    StartsWith,
)

import imagebroker
from imagebroker.model.reference import parse
from imagebroker.plugin import ImageNotFound, NotAuthorized, UnsupportedOperation
from tests.plugins.http.files import SIZE, secure
from tests.plugins.http_peers import answer, fetched, make_backend, opened, serving
from tests.servers.images import random_file
from tests.servers.nginx import Nginx


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
    [request] = nginx.requests("/head.img", at_least=1)
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


@pytest.mark.promise("security-25")
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
