"""`Content-Encoding` on stored files: which are stored as they are sent, and which refused."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Is, MatchesRegex

import imagebroker
from imagebroker.exceptions import ChecksumMismatch, ImageChanged, TransferError, VerificationError
from imagebroker.model.reference import parse
from tests.plugins.http_peers import answer, make_backend, opened, serving
from tests.servers.apache import Apache
from tests.verify.ways import WAYS, Way

DATA = bytes(range(256)) * 4000
PACKED = gzip.compress(DATA)


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    made: Way = request.param(tmp_path)
    return made


@pytest.fixture
def broker(make_broker: Callable[..., imagebroker.Broker]) -> imagebroker.Broker:
    return make_broker(
        "[imagebroker]\nenabled_schemes = http\nretry_backoff = 0\n"
        "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )


@pytest.mark.parametrize("coding", ["none", "binary", "aws-chunked", "utf-8", "identity"])
def test_what_names_no_coding_is_stored(coding: str, broker: imagebroker.Broker, way: Way) -> None:
    with serving(answer(DATA, f"Content-Encoding: {coding}")) as server:
        assert_that(way.get(broker, f"{server.url}/a.img")[0] == DATA, Is(True))


@pytest.mark.parametrize("name", ["a.img.gz", "a.tgz"])
def test_a_file_whose_name_says_so_is_stored_as_it_is_sent(
    name: str, broker: imagebroker.Broker, way: Way
) -> None:
    with serving(answer(PACKED, "Content-Encoding: gzip")) as server:
        assert_that(way.get(broker, f"{server.url}/{name}")[0], Equals(PACKED))


def test_the_name_that_a_redirect_leads_to_counts_too(broker: imagebroker.Broker, way: Way) -> None:
    away = answer(b"", "Location: /pool/a.img.gz", status="302 Found")
    with serving(away, answer(PACKED, "Content-Encoding: x-gzip")) as server:
        assert_that(way.get(broker, f"{server.url}/latest")[0], Equals(PACKED))


@pytest.mark.promise("C12", "web-server-liberties")
@pytest.mark.parametrize(
    "coding", ["gzip", "br", "zstd", "deflate", "gzip, gzip", "identity, gzip", "x-unknown", "GZIP"]
)
def test_where_a_digest_holds_it_is_stored_as_it_is_sent(
    coding: str, broker: imagebroker.Broker, way: Way
) -> None:
    with serving(answer(PACKED, f"Content-Encoding: {coding}")) as server:
        data, _ = way.get(broker, f"{server.url}/a.img", checksum=digest(PACKED))
    assert_that(data, Equals(PACKED))


@pytest.mark.promise("C12", "security-17")
@pytest.mark.parametrize(
    "coding", ["gzip", "br", "zstd", "deflate", "gzip, gzip", "identity, gzip", "x-unknown", "GZIP"]
)
def test_without_one_it_is_refused_with_a_hint(
    coding: str, broker: imagebroker.Broker, way: Way
) -> None:
    with serving(answer(PACKED, f"Content-Encoding: {coding}")) as server:
        with pytest.raises(TransferError) as caught:
            way.get(broker, f"{server.url}/a.img")
        assert_that(server.connections, HasLength(1))
    assert_that(caught.value.retryable, Is(False))
    assert_that(caught.value.hint, MatchesRegex("pass --(checksum|decompress=(gzip|zstd)) "))
    way.assert_nothing_came(len(PACKED))


def test_a_digest_of_what_is_in_it_is_none_of_what_is_sent(
    broker: imagebroker.Broker, way: Way
) -> None:
    with serving(answer(PACKED, "Content-Encoding: gzip")) as server:
        with pytest.raises(ChecksumMismatch):
            way.get(broker, f"{server.url}/a.img", checksum=digest(DATA))
    way.assert_nothing_came(len(PACKED))


@pytest.mark.parametrize("kind", ["gzip", "auto"])
def test_who_unpacks_it_gets_what_is_in_it(
    kind: str, broker: imagebroker.Broker, tmp_path: Path
) -> None:
    with serving(answer(PACKED, "Content-Encoding: gzip")) as server:
        broker.download(None, f"{server.url}/a.img", tmp_path / "image", decompress=kind)
    assert_that((tmp_path / "image").read_bytes() == DATA, Is(True))


def test_a_record_is_shown_whatever_the_coding(broker: imagebroker.Broker) -> None:
    with serving(answer(PACKED, "Content-Encoding: br")) as server:
        image = broker.get(None, f"{server.url}/a.img")
    assert_that(image.size, Equals(len(PACKED)))
    assert_that(image.properties["content_encoding"], Equals("br"))


def test_nobody_shares_bytes_of_a_coding_that_a_caller_would_not_get() -> None:
    with serving(answer(PACKED, 'ETag: "1"', "Content-Encoding: br")) as server:
        with pytest.raises(TransferError):
            make_backend().probe(None, parse(f"{server.url}/a.img"))


def test_a_coding_that_comes_in_the_middle_is_another_image() -> None:
    part = answer(
        PACKED[4:], 'ETag: "1"', "Content-Encoding: gzip",
        f"Content-Range: bytes 4-{len(PACKED) - 1}/{len(PACKED)}", status="206 Partial Content",
    )  # fmt: skip
    with serving(answer(PACKED, 'ETag: "1"'), part) as server, opened(f"{server.url}/a") as source:
        with pytest.raises(ImageChanged):
            list(source.read(4))


def test_a_checksum_file_that_is_sent_encoded_has_a_hint_of_its_own(
    broker: imagebroker.Broker, way: Way
) -> None:
    with serving(answer(PACKED, "Content-Encoding: gzip")) as sums, serving(answer(DATA)) as server:
        with pytest.raises(VerificationError) as caught:
            way.get(broker, f"{server.url}/a.img", checksum=f"{sums.url}/SHA256SUMS")
        assert_that(server.connections, HasLength(0))
    assert_that(caught.value.hint, Contains("the digest itself"))


# -- Apache ------------------------------------------------------------------------------------


@pytest.mark.promise("web-server-liberties")
@pytest.mark.parametrize("ending", [".gz", ".tgz", ".Z", ".zst"])
def test_apache_describes_stored_files_and_they_are_stored(
    ending: str, apache: Apache, broker: imagebroker.Broker, way: Way
) -> None:
    (apache.root / f"described.img{ending}").write_bytes(PACKED)
    url = apache.url(f"described.img{ending}")
    assert_that(broker.get(None, url).properties, Contains("content_encoding"))
    assert_that(way.get(broker, url)[0], Equals(PACKED))


def test_apache_describes_a_file_with_another_name(
    apache: Apache, broker: imagebroker.Broker, way: Way, tmp_path: Path
) -> None:
    (apache.root / "other.image").write_bytes(PACKED)
    url = apache.url("other.image")
    with pytest.raises(TransferError):
        way.get(broker, url)
    broker.download(None, url, tmp_path / "packed", checksum=digest(PACKED))
    assert_that((tmp_path / "packed").read_bytes(), Equals(PACKED))
    broker.download(None, url, tmp_path / "unpacked", decompress="gzip")
    assert_that((tmp_path / "unpacked").read_bytes() == DATA, Is(True))


@pytest.mark.promise("security-17")
def test_what_apache_compresses_on_the_way_is_refused(
    apache: Apache, broker: imagebroker.Broker, way: Way
) -> None:
    (apache.root / "onthefly.img").write_bytes(DATA)
    for checksum in (None, digest(DATA)):
        with pytest.raises((TransferError, ChecksumMismatch)):
            way.get(broker, apache.url("onthefly.img", prefix="deflated"), checksum=checksum)
        way.assert_nothing_came(len(DATA))
