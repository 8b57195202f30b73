"""The next server is asked when one fails."""

from __future__ import annotations

import ssl
from contextlib import ExitStack
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan, HasLength, Is, LessThan, MatchesAll

from imagebroker.plugin import PolicyViolation, TransferError
from tests.plugins.glance_stub import (
    DATA,
    OneImage,
    Request,
    Stub,
    answer,
    fetched,
    make_backend,
    opened,
)
from tests.servers.certificates import write_certificates
from tests.servers.raw import Connection


def closed_port() -> str:
    with Stub(OneImage()) as gone:
        return gone.endpoint


def test_the_next_server_is_asked_when_one_refuses_or_is_in_trouble() -> None:
    with Stub(OneImage()) as good, Stub(lambda request, _: answer(503)) as busy:
        for _ in range(8):  # whatever the shuffled order
            backend = make_backend(endpoint=[closed_port(), busy.endpoint, good.endpoint])
            assert_that(fetched(backend), Equals(DATA))


def test_a_server_that_dies_half_way_is_followed_by_another() -> None:
    images = OneImage(), OneImage()

    def die_half_way(request: Request, connection: Connection) -> None:
        connection.sendall(images[0].good_file(request)[:100_000])
        for image in images:  # whichever was asked first: the other one is good
            image.file = None

    for image in images:
        image.file = die_half_way
    with Stub(images[0]) as one, Stub(images[1]) as other:
        backend = make_backend(endpoint=[one.endpoint, other.endpoint])
        got: list[bytes] = []
        with opened(backend) as source:
            with pytest.raises(TransferError):
                got.extend(source.read())
            have = sum(map(len, got))
            assert_that(have, MatchesAll(GreaterThan(0), LessThan(len(DATA))))
            got.extend(source.read(have))
        assert_that(b"".join(got), Equals(DATA))
        assert_that([each.count("GET", "/file") for each in (one, other)], Equals([1, 1]))


def test_the_order_of_servers_differs_between_instances() -> None:
    with Stub(OneImage()) as one, Stub(OneImage()) as other:
        for _ in range(64):
            fetched(make_backend(endpoint=[one.endpoint, other.endpoint]))
            if all(server.count("GET", "/file") for server in (one, other)):
                return
        pytest.fail("one of two servers is always asked first")


def test_when_all_servers_are_dead_the_error_names_each() -> None:
    ports = [closed_port() for _ in range(3)]
    with pytest.raises(TransferError) as caught:
        fetched(make_backend(endpoint=ports))
    assert_that(caught.value.retryable, Is(True))
    for url in ports:
        assert_that(str(caught.value), Contains(url.split("/")[2].split(":")[1]))


def test_a_server_with_a_certificate_that_nobody_trusts_is_passed_over(tmp_path: Path) -> None:
    cafile = write_certificates(tmp_path)

    def tls(name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / f"{name}.pem")
        return context

    with Stub(OneImage(), tls=tls("good")) as good, ExitStack() as stack:
        for name, remedy in {
            "wrong-host": "subjectAltName",
            "expired": "clock",
            "not-yet-valid": "clock",
            "no-intermediate": "cafile",
            "self-signed": "cafile",
        }.items():
            bad = stack.enter_context(Stub(OneImage(), tls=tls(name)))
            backend = make_backend(endpoint=[bad.endpoint], cafile=str(cafile))
            with pytest.raises(PolicyViolation) as caught:
                fetched(backend)
            assert_that(caught.value.hint, Contains(remedy))
            assert_that(bad.requests, HasLength(0))
            backend = make_backend(endpoint=[bad.endpoint, good.endpoint], cafile=str(cafile))
            assert_that(fetched(backend), Equals(DATA))
        with pytest.raises(PolicyViolation):  # the system's authorities do not know this one
            fetched(make_backend(endpoint=[good.endpoint]))
        insecure = make_backend(endpoint=[bad.endpoint], insecure=True, allow_insecure=True)
        assert_that(fetched(insecure), Equals(DATA))
