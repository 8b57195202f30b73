"""For the tests of the http backend: backends that reach this host, and answers on the wire."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3
from imagebroker_http import HttpBackend

from imagebroker.http.pools import translated
from imagebroker.http.wire import Wire
from imagebroker.model.reference import check_form, parse
from imagebroker.plugin import BackendHost, Buffer, ImageSource, Limits, Options
from imagebroker.policy.addresses import Policy, networks
from tests.servers.raw import Connection, RawServer

DEFAULTS = {
    **{option.dest: option.default for option in HttpBackend.options},
    "endpoint": [],
    "proxy": None,
}
#: Short enough that a test of a stall ends soon, long enough for a busy machine.
STALL = 0.4


def make_backend(
    *,
    limits: Limits | None = None,
    reach: str = "127.0.0.0/8",
    personal: bool = False,
    **options: Any,
) -> HttpBackend:
    """A backend as the core makes it, allowed to connect to this host."""
    return HttpBackend(
        BackendHost(
            name="http",
            options=Options({**DEFAULTS, **options}),
            personal=personal,
            limits=limits or Limits(connect_timeout=5, stall_timeout=5),
            policy=Policy(allowed_networks=networks([reach])),
        )
    )


def impatient(**options: Any) -> HttpBackend:
    return make_backend(limits=Limits(connect_timeout=5, stall_timeout=STALL), **options)


@contextmanager
def opened(url: str, backend: HttpBackend | None = None) -> Iterator[ImageSource]:
    """The source of a URL, closed at the end."""
    ref = parse(url)
    check_form(ref, HttpBackend.ref_form)
    source = (backend or make_backend()).open(None, ref)
    try:
        yield source
    finally:
        source.close()


def fetched(
    url: str, backend: HttpBackend | None = None, start: int = 0, stop: int | None = None
) -> bytes:
    """All bytes of a URL, or those from `start` to `stop`."""
    with opened(url, backend) as source:
        return b"".join(source.read(start, stop))


def pour(chunks: Iterable[Buffer], into: bytearray) -> None:
    """Append the chunks; those before an error stay."""
    for chunk in chunks:
        into += chunk


def answer(
    body: bytes = b"",
    *headers: str,
    status: str = "200 OK",
    length: bool = True,
    version: str = "1.1",
) -> bytes:
    """An answer as it goes over the wire."""
    lines = [f"HTTP/{version} {status}", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(*chunks: bytes) -> bytes:
    """An answer in so many chunks."""
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return answer(b"", "Transfer-Encoding: chunked", length=False) + framed


def hang(connection: Connection) -> None:
    """Say nothing more, and leave when the client does."""
    connection.wait_for_close(20)
    connection.close()


def serving(*answers: bytes, tls: ssl.SSLContext | None = None) -> RawServer:
    """Sends the first answer on the first connection, and so on; the last again and again.

    Our client asks again where the next request met the end of a kept connection. Another client
    may not: an answer that it follows up needs `Connection: close`.
    """

    def script(connection: Connection, index: int) -> None:
        if connection.read_head():
            connection.sendall(answers[min(index, len(answers) - 1)])

    return RawServer(script, tls=tls)


def talking(*answers: bytes) -> RawServer:
    """Sends one answer after the other on each connection, as often as it is asked."""

    def script(connection: Connection, index: int) -> None:
        for each in answers:
            if not connection.read_head():
                return
            connection.sendall(each)

    return RawServer(script)


def server_context(directory: Path, certificate: str = "good") -> ssl.SSLContext:
    """For a TLS server with a certificate that `write_certificates` made."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / f"{certificate}.pem")
    return context


def read_answer(sock: socket.socket, method: str = "GET") -> tuple[int, bytes]:
    """What `http.client` and urllib3 make of an answer on a socket, through our gate."""
    wire = Wire(sock, "http://peer", Limits())
    reply = http.client.HTTPResponse(wire, method=method)  # type: ignore[arg-type]
    try:
        with translated("http://peer"):
            reply.begin()
            made = urllib3.HTTPResponse(
                reply,
                dict(reply.msg.items()),
                reply.status,
                preload_content=False,
                original_response=reply,
            )
            pieces = iter(lambda: bytes(made.read1(1 << 20, decode_content=False)), b"")
            return reply.status, b"".join(pieces)
    finally:
        reply.close()
