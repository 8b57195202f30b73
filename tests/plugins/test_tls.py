"""TLS with servers that cannot prove who they are, for the backends that have servers behind it."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, Is, Not

import imagebroker
from imagebroker.exceptions import (
    ImageBrokerError,
    NotAuthorized,
    PolicyViolation,
    TransferError,
)
from tests.plugins import glance_stub, http_peers
from tests.plugins.glance_stub import DATA, OneImage, Stub
from tests.plugins.http_peers import answer
from tests.servers.certificates import write_certificates
from tests.servers.raw import Connection, RawServer

BAD = ("self-signed", "wrong-host", "expired", "not-yet-valid", "no-intermediate")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificates; ``stranger`` is one of another authority."""
    folder = tmp_path_factory.mktemp("tls")
    other = write_certificates(folder / "other")
    write_certificates(folder)
    (folder / "stranger.pem").write_bytes((other.parent / "good.pem").read_bytes())
    for file in folder.glob("*.pem"):
        file.chmod(0o600)
    return folder


def context(files: Path, certificate: str = "good") -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(files / f"{certificate}.pem")
    return made


class Peer:
    """A TLS server of one backend's kind, and what it was asked."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.asked: list[bytes] = []
        self._tls = tls

    def __enter__(self) -> Peer:
        raise NotImplementedError

    def __exit__(self, *exc_info: object) -> None:
        raise NotImplementedError

    def fetch(self, files: Path, **options: object) -> bytes:
        raise NotImplementedError


class HttpPeer(Peer):
    def __enter__(self) -> Peer:
        self.server = RawServer(self._serve, tls=self._tls)
        self.server.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.server.__exit__(None, None, None)

    def _serve(self, connection: Connection, index: int) -> None:
        if head := connection.read_head():
            self.asked.append(head)
            connection.sendall(answer(DATA))

    def fetch(self, files: Path, **options: object) -> bytes:
        names = {"cafile": "ca_file", "certfile": "cert_file"}
        backend = http_peers.make_backend(
            **{names.get(name, name): value for name, value in options.items()}  # type: ignore[arg-type]
        )
        return http_peers.fetched(f"{self.server.url}/x", backend)


class GlancePeer(Peer):
    def __enter__(self) -> Peer:
        self.stub = Stub(OneImage(), tls=self._tls)
        self.stub.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stub.__exit__(None, None, None)

    def fetch(self, files: Path, **options: object) -> bytes:
        backend = glance_stub.make_backend(endpoint=[self.stub.endpoint], **options)
        try:
            return glance_stub.fetched(backend)
        finally:
            self.asked = [b"asked" for _ in self.stub.requests]


@pytest.fixture(params=[HttpPeer, GlancePeer])
def peer(request: pytest.FixtureRequest) -> Callable[[ssl.SSLContext], Peer]:
    made: Callable[[ssl.SSLContext], Peer] = request.param
    return made


Made = Callable[[ssl.SSLContext], Peer]


@pytest.mark.promise("tls")
@pytest.mark.parametrize("certificate", BAD)
def test_a_bad_certificate_is_a_refusal_and_nothing_is_sent(
    peer: Made, files: Path, certificate: str
) -> None:
    with peer(context(files, certificate)) as server:
        with pytest.raises(PolicyViolation) as caught:
            server.fetch(files, cafile=str(files / "ca.pem"))
        assert_that(caught.value.retryable, Is(False))
        assert_that(caught.value.hint, Not(Equals("")))
        assert_that(server.asked, HasLength(0))


def test_a_certificate_below_an_intermediate_one_is_good_where_the_server_sends_both(
    peer: Made, files: Path
) -> None:
    with peer(context(files, "intermediate")) as server:
        assert_that(server.fetch(files, cafile=str(files / "ca.pem")) == DATA, Is(True))


@pytest.mark.promise("tls")
@pytest.mark.parametrize("older", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_a_server_that_speaks_only_an_old_tls_gets_no_request(
    peer: Made, files: Path, older: ssl.TLSVersion
) -> None:
    made = context(files)
    made.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        made.minimum_version = made.maximum_version = older
    with peer(made) as server:
        for options in ({}, {"insecure": True, "allow_insecure": True}):
            with pytest.raises(TransferError):
                server.fetch(files, cafile=str(files / "ca.pem"), **options)
        assert_that(server.asked, HasLength(0))


def test_a_minimum_of_tls_1_3_holds(peer: Made, files: Path) -> None:
    made = context(files)
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    with peer(made) as server:
        with pytest.raises(TransferError):
            server.fetch(files, cafile=str(files / "ca.pem"), min_tls="TLSv1.3")
        assert_that(server.asked, HasLength(0))
    with peer(context(files)) as server:
        got = server.fetch(files, cafile=str(files / "ca.pem"), min_tls="TLSv1.3")
        assert_that(got == DATA, Is(True))


@pytest.mark.promise("tls")
@pytest.mark.parametrize("shown", [None, "stranger"])
def test_without_the_certificate_that_a_server_insists_on_nothing_is_served(
    peer: Made, files: Path, shown: str | None
) -> None:
    made = context(files)
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(files / "ca.pem")
    options = {} if shown is None else {"certfile": str(files / f"{shown}.pem")}
    with peer(made) as server:
        with pytest.raises(NotAuthorized):
            server.fetch(files, cafile=str(files / "ca.pem"), **options)
        assert_that(server.asked, HasLength(0))
        got = server.fetch(files, cafile=str(files / "ca.pem"), certfile=str(files / "good.pem"))
        assert_that(got == DATA, Is(True))


@pytest.mark.promise("tls")
def test_session_keys_are_written_nowhere(
    peer: Made, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    with peer(context(files)) as server:
        server.fetch(files, cafile=str(files / "ca.pem"))
    assert_that((tmp_path / "keys").exists(), Is(False))


# -- through a broker ---------------------------------------------------------------------------

MakeBroker = Callable[[str], imagebroker.Broker]


@pytest.fixture
def web(files: Path) -> Iterator[RawServer]:
    def serve(connection: Connection, index: int) -> None:
        if connection.read_head():
            connection.sendall(answer(DATA))

    with RawServer(serve, tls=context(files, "self-signed")) as server:
        yield server


CONFIG = """
    [imagebroker]
    enabled_schemes = https
    retries = 0
    [backend:http]
    allowed_networks = 127.0.0.0/8
"""


@pytest.mark.promise("tls")
def test_the_evidence_says_that_nobody_proved_who_the_server_was(
    make_broker: MakeBroker, web: RawServer, tmp_path: Path
) -> None:
    broker = make_broker(CONFIG + "    insecure = true\n    allow_insecure = true\n")
    for decompress in (None, "auto"):
        done = broker.download(None, f"{web.url}/x", tmp_path / "x", decompress=decompress)
        assert_that(done.evidence["insecure"], Is(True))
        with open(tmp_path / "y", "wb") as file:
            done = broker.download(None, f"{web.url}/x", file, decompress=decompress)
        assert_that(done.evidence["insecure"], Is(True))
        with broker.open(None, f"{web.url}/x", decompress=decompress) as reader:
            reader.read()
            assert_that(reader.evidence["insecure"], Is(True))


def test_a_verified_server_needs_no_remark(
    make_broker: MakeBroker, files: Path, tmp_path: Path
) -> None:
    broker = make_broker(CONFIG + f"    ca_file = {files / 'ca.pem'}\n")
    with RawServer(lambda c, _: c.sendall(answer(DATA) if c.read_head() else b""),
                   tls=context(files)) as server:  # fmt: skip
        done = broker.download(None, f"{server.url}/x", tmp_path / "x")
    assert_that("insecure" in done.evidence, Is(False))


def test_an_unproven_server_is_never_asked_again(
    make_broker: MakeBroker, web: RawServer, tmp_path: Path
) -> None:
    broker = make_broker(CONFIG.replace("retries = 0", "retries = 3"))
    with pytest.raises(ImageBrokerError) as caught:
        broker.download(None, f"{web.url}/x", tmp_path / "x")
    assert_that(str(caught.value), Contains("certificate"))
    assert_that(web.connections, HasLength(1))
    assert_that((tmp_path / "x").exists(), Is(False))
