"""A proxy is used where it is configured, and the environment configures nothing."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, HasLength, Not, StartsWith

from imagebroker.plugin import NotAuthorized, PolicyViolation, TransferError
from tests.plugins.http.files import secure
from tests.plugins.http_peers import answer, fetched, make_backend, serving
from tests.servers.nginx import Nginx
from tests.servers.raw import Connection, RawServer


@pytest.mark.promise("security-19")
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


@pytest.mark.promise("security-10")
def test_the_address_policy_holds_for_the_proxy() -> None:
    with serving(answer(b"data")) as proxy:
        with pytest.raises(PolicyViolation):
            fetched("http://images.example/", make_backend(proxy=proxy.url, reach="10.0.0.0/8"))
        assert_that(proxy.connections, HasLength(0))
