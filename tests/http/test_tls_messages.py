"""What TLS does within a connection, new keys and a second handshake, does not disturb the data."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_connection

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.http.tls_socket import TlsSocket
from tests.bounds import HANGS
from tests.servers.certificates import write_certificates
from tests.servers.process import HOST

#: What `openssl s_server` does on these commands.
RENEGOTIATE, NEW_KEY, NEW_KEYS = b"r", b"k", b"K"


class Partner:
    """`openssl s_server` with one client."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._typed, self._shown = process.stdin, process.stdout

    def type(self, line: bytes) -> None:
        """A command, or text that it sends to the client."""
        self._typed.write(line + b"\n")
        self._typed.flush()

    def wait_for(self, text: bytes) -> bytes:
        """The next line of its output with this text; what the client sends is shown too."""
        while line := self._shown.readline():
            if text in line:
                return line
        raise AssertionError(f"it never showed {text!r}")


@contextmanager
def partner(*options: str | Path) -> Iterator[tuple[Partner, int]]:
    """It and its port."""
    command = ["stdbuf", "-oL", "openssl", "s_server", "-accept", f"{HOST}:0", *options]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            found = Partner(process)
            yield found, int(found.wait_for(b"ACCEPT").rpartition(b":")[2])
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("version", "command"),
    [("-tls1_2", RENEGOTIATE), ("-tls1_3", NEW_KEY), ("-tls1_3", NEW_KEYS)],
)
def test_both_sides_go_on_with_new_keys(tmp_path: Path, version: str, command: bytes) -> None:
    ca = write_certificates(tmp_path)
    context = ssl.create_default_context(cafile=str(ca))
    with (
        partner("-cert", tmp_path / "good.pem", version) as (server, port),
        create_connection((HOST, port), timeout=HANGS) as sock,
    ):
        tls = TlsSocket(sock, context, HOST)
        tls.sendall(b"one\n")
        server.wait_for(b"one")
        for word in (b"two\n", b"three\n"):
            server.type(command)
            server.wait_for(b"SSL_do_handshake")
            server.type(word[:-1])
            buffer = bytearray(100)
            assert_that(bytes(buffer[: tls.recv_into(buffer)]), Equals(word))
            tls.sendall(word)
            server.wait_for(word[:-1])
            assert_that(tls.unread, Equals(False))
