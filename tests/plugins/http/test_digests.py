"""The digests that web servers send (RFC 9530)."""

from __future__ import annotations

import hashlib
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, LessThan, Not

import imagebroker
from imagebroker.exceptions import ChecksumMismatch, ChecksumMissing
from imagebroker.http.digests import digests
from imagebroker.http.head import Head
from imagebroker.model.reference import parse
from tests.plugins.http_peers import answer, make_backend, opened, serving, talking
from tests.verify.ways import WAYS, Way

DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()
SHA512 = hashlib.sha512(DATA).hexdigest()


def sent(algorithm: str, data: bytes = DATA) -> str:
    """A member of the field."""
    digest = hashlib.new(algorithm.replace("sha-", "sha"), data).digest()
    return f"{algorithm}=:{b64encode(digest).decode()}:"


def found(*fields: tuple[str, str], whole: bool = True) -> dict[str, str]:
    return digests(Head(1, 200, "OK", fields), whole=whole)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    made: Way = request.param(tmp_path)
    return made


@pytest.fixture
def broker(make_broker: Callable[..., imagebroker.Broker]) -> imagebroker.Broker:
    return make_broker(
        "[imagebroker]\nenabled_schemes = http\nretries = 1\nretry_backoff = 0\n"
        "[backend:http]\nallowed_networks = 127.0.0.0/8\n"
    )


# -- what the field says ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (sent("sha-256"), {"sha256": SHA256}),
        (sent("sha-512"), {"sha512": SHA512}),
        (f"{sent('sha-256')},{sent('sha-512')}", {"sha256": SHA256, "sha512": SHA512}),
        (f"{sent('sha-256')} ,  {sent('sha-512')}", {"sha256": SHA256, "sha512": SHA512}),
        (f'{sent("sha-256")};a=1; b=?0;c="x";d=token;e', {"sha256": SHA256}),
        (f"md5=:AAAA:, {sent('sha-256')}, unixsum=:AA==:", {"sha256": SHA256}),
        (f"{sent('sha-256')}, {sent('sha-256')}", {"sha256": SHA256}),
        ("md5=:AAAA:", {}),
    ],
)
def test_strong_digests_are_taken_and_others_passed_over(
    text: str, expected: dict[str, str]
) -> None:
    assert_that(found(("repr-digest", text)), Equals(expected))


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ",", "sha-256", "sha-256=", "sha-256=::", "sha-256=:AAAA:", "sha-256=AAAA",
        sent("sha-256")[:-1], sent("sha-256") + ",", "," + sent("sha-256"),
        sent("sha-256") + " x", sent("sha-256") + sent("sha-512"), sent("sha-256").upper(),
        sent("sha-256").replace("=:", "= :"), sent("sha-256").replace("sha-256", "sha-512"),
        sent("sha-256").replace(":", '"'), sent("sha-256").replace("=:", "=:="),
        f"{sent('sha-256')}, {sent('sha-256', b'other')}", sent("sha-256").replace("=:", "=:-_"),
        f"({sent('sha-256')})", sent("sha-256") + ";a=\"", sent("sha-256") + "," * 10,
        ", ".join(["a=:AA==:"] * 1000 + [sent("sha-256")]), "a" * 5000,
    ],
)  # fmt: skip
def test_a_field_that_is_not_as_it_should_be_says_nothing(text: str) -> None:
    assert_that(found(("repr-digest", text)), Equals({}))


def test_several_lines_are_one_field() -> None:
    fields = [("repr-digest", sent("sha-256")), ("repr-digest", sent("sha-512"))]
    assert_that(found(*fields), Equals({"sha256": SHA256, "sha512": SHA512}))
    fields = [("repr-digest", sent("sha-256")), ("repr-digest", sent("sha-256", b"other"))]
    assert_that(found(*fields), Equals({}))


def test_content_digest_counts_only_where_the_content_is_the_whole_image() -> None:
    fields = [("content-digest", sent("sha-256"))]
    assert_that(found(*fields), Equals({"sha256": SHA256}))
    assert_that(found(*fields, whole=False), Equals({}))
    fields = [("content-digest", sent("sha-256")), ("repr-digest", sent("sha-256", b"other"))]
    assert_that(found(*fields), Equals({}))


@settings(max_examples=500, deadline=None, database=None)
@given(
    st.one_of(
        st.text(max_size=300),
        st.text('sha-256=:;,"?AZ/+ \t', max_size=200),
        st.lists(st.sampled_from([sent("sha-256"), ",", " ", ";a", "=:AA==:", "x"])).map("".join),
    )
)
def test_any_text_says_the_right_digest_or_none(text: str) -> None:
    assert_that(found(("repr-digest", text)) in ({}, {"sha256": SHA256}), Equals(True))


def test_no_field_takes_long() -> None:
    for worst in (";a" * 2000, "sha-256=:" + "A" * 4000, "a=:AA==:" + " " * 4000,
                  ("a=:AA==:" + ";a" * 8 + ",") * 200, 'a=:AA==:;b="' + "x" * 4000):  # fmt: skip
        before = time.thread_time()
        assert_that(found(("repr-digest", worst)), Equals({}))
        assert_that(time.thread_time() - before, LessThan(0.5))


# -- what becomes of it -------------------------------------------------------------------------


def test_the_record_has_it_and_it_is_asked_for() -> None:
    head = (f"Repr-Digest: {sent('sha-256')}", f"Content-Digest: {sent('sha-512')}")
    with talking(answer(DATA, *head), answer(DATA, *head)) as server:
        with opened(f"{server.url}/x") as source:
            expected = {"sha256": SHA256, "sha512": SHA512}
            assert_that(dict(source.image.checksums), Equals(expected))
        assert_that(server.received[0].lower(), Contains(b"want-repr-digest: sha-512"))
    with serving(answer(b"", *head, "Content-Length: 5", length=False)) as server:
        image = make_backend().get(None, parse(f"{server.url}/x"))
        assert_that(dict(image.checksums), Equals({"sha256": SHA256}))  # HEAD has no content


def test_the_bytes_must_have_it_and_the_evidence_says_whose_word_it_was(
    broker: imagebroker.Broker, way: Way
) -> None:
    with serving(answer(DATA, f"Repr-Digest: {sent('sha-256')}")) as server:
        data, evidence = way.get(broker, f"{server.url}/x")
    assert_that(data, Equals(DATA))
    assert_that(evidence["checked_against"], Equals(("sha256 of the server's digest field",)))


def test_other_bytes_are_a_failed_check(broker: imagebroker.Broker, way: Way) -> None:
    with serving(answer(DATA, f"Repr-Digest: {sent('sha-256', b'other')}")) as server:
        with pytest.raises(ChecksumMismatch):
            way.get(broker, f"{server.url}/x")
        assert_that(len(server.connections), Equals(1))
    way.assert_nothing_came(len(DATA))


def test_the_strongest_of_several_is_checked_and_the_callers_too(
    broker: imagebroker.Broker, way: Way
) -> None:
    both = f"Repr-Digest: {sent('sha-256')}, {sent('sha-512')}"
    with serving(answer(DATA, both)) as server:
        _, evidence = way.get(broker, f"{server.url}/x", checksum=f"sha256:{SHA256}")
    assert_that(
        evidence["checked_against"],
        Equals(("sha256 of the caller", "sha512 of the server's digest field")),
    )


@pytest.mark.promise("C6", "security-26")
def test_it_does_not_satisfy_a_required_checksum(
    make_broker: Callable[..., imagebroker.Broker], way: Way
) -> None:
    broker = make_broker(
        "[imagebroker]\nenabled_schemes = http\n[backend:http]\n"
        "allowed_networks = 127.0.0.0/8\nrequire_checksum = true\n"
    )
    with serving(answer(DATA, f"Repr-Digest: {sent('sha-256')}")) as server:
        with pytest.raises(ChecksumMissing) as caught:
            way.get(broker, f"{server.url}/x")
        assert_that(str(caught.value), Contains("the server's digest field"))
        way.assert_nothing_came(1)
        data, _ = way.get(broker, f"{server.url}/x", checksum=f"sha256:{SHA256}")
        assert_that(data, Equals(DATA))


def test_it_lets_a_broken_transfer_go_on_without_a_strong_etag(
    broker: imagebroker.Broker, way: Way
) -> None:
    head = (f"Repr-Digest: {sent('sha-256')}", "Accept-Ranges: bytes")
    whole = answer(DATA, *head)[: -len(DATA) // 2]
    start = len(DATA) - len(DATA) // 2
    part = answer(
        DATA[start:], *head, f"Content-Range: bytes {start}-{len(DATA) - 1}/{len(DATA)}",
        status="206 Partial Content",
    )  # fmt: skip
    with serving(whole, part) as server:
        data, _ = way.get(broker, f"{server.url}/x")
        assert_that(server.received[1], Contains(b"Range: bytes="))
    assert_that(data, Equals(DATA))
    assert_that(data, Not(Equals(b"")))
