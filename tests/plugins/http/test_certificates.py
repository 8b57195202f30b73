"""TLS: whom the backend believes."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, HasLength, Is

from imagebroker.plugin import (
    ConfigError,
    Limits,
    NotAuthorized,
    PolicyViolation,
    TransferError,
)
from tests.plugins.http.files import secure
from tests.plugins.http_peers import (
    STALL,
    answer,
    fetched,
    hang,
    make_backend,
    server_context,
    serving,
)
from tests.servers.nginx import Nginx
from tests.servers.raw import Connection, RawServer


@pytest.mark.parametrize(
    ("certificate", "remedy"),
    [("wrong-host", "subjectAltName"), ("expired", "clock"), ("self-signed", "--ca-file")],
)
def test_a_bad_certificate_is_refused_before_the_request(
    nginx: Nginx, certificate: str, remedy: str
) -> None:
    before = len(nginx.requests())
    with pytest.raises(PolicyViolation) as caught:
        fetched(f"{nginx.tls_url(certificate)}/x", secure(nginx))
    assert_that(caught.value.hint, Contains(remedy))
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


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("certificate", [None, "self-signed"])
def test_a_server_that_wants_another_client_certificate_says_so(
    nginx: Nginx, tls_files: Path, certificate: str | None, version: ssl.TLSVersion
) -> None:
    """In an alert, which comes after the handshake since TLS 1.3. Trying again does not help."""
    context = server_context(tls_files)
    context.minimum_version = context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(nginx.ca_file)
    options = {} if certificate is None else {"cert_file": str(tls_files / f"{certificate}.pem")}
    with serving(answer(b"data"), tls=context) as server:
        backend = secure(nginx, endpoint=[f"{server.url}/"], **options)
        with pytest.raises((NotAuthorized, TransferError)) as caught:
            fetched(f"{server.url}/x", backend)
    assert_that(caught.value.retryable, Is(False), str(caught.value))
    assert_that(caught.value.hint, Contains("cert_file"))


def test_a_key_of_another_certificate_is_called_that(nginx: Nginx, tls_files: Path) -> None:
    key = tls_files / "self-signed.pem"
    key.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        secure(nginx, cert_file=str(tls_files / "good.pem"), key_file=str(key))
    assert_that(caught.value.hint, Contains("the key that belongs to the certificate"))
