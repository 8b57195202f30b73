"""urllib3's connections and pools, with sockets of the host's and answers read through `Wire`.

Importing this imports urllib3, a tenth of the time until the command's first request: it is done
when that is sent.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from socket import socket
from typing import Any, Protocol

from urllib3 import connection, connectionpool

from imagebroker.backends.backend import Limits
from imagebroker.exceptions import (
    ImageBrokerError,
    PolicyViolation,
    TransferError,
    TransferTimeout,
)
from imagebroker.http.buffers import Buffers
from imagebroker.http.lost import CLIENT_CERTIFICATE, lost, refused
from imagebroker.http.tls_socket import TlsSocket
from imagebroker.http.wire import Handle, Wire

#: Idle connections to one server that are kept.
_IDLE = 64


class Dial(Protocol):
    """How a pool connects."""

    @property
    def peer(self) -> str:
        """The name of the server in messages."""

    @property
    def limits(self) -> Limits: ...

    @property
    def buffers(self) -> Buffers: ...

    @property
    def ca_option(self) -> str:
        """The option that names the authorities to trust."""

    def connect(self) -> socket:
        """A socket to the server, or through a proxy's tunnel to it.

        :raises PolicyViolation, TransferError, NotAuthorized: there is none.
        """

    def adopt(self, handle: Handle) -> None:
        """Called for each new connection. :raises TransferError: it is not wanted any more."""


class Request(dict[str, str]):
    """The headers of a request, and what urllib3 would lose or change on the way."""

    def __init__(self, fields: Any, target: str, patience: float = 1.0) -> None:
        super().__init__(fields)
        #: As it is written: urllib3 would spell it in another way.
        self.target = target
        self.patience = patience
        #: The connection that it went over.
        self.connection: _Connection | None = None
        #: Whether that one had served another request before.
        self.reused = False

    @property
    def answer(self) -> http.client.HTTPResponse:
        """The answer, as `http.client` has parsed it."""
        if self.connection is None or self.connection.answer is None:
            raise RuntimeError("nothing was asked")
        return self.connection.answer

    def copy(self) -> Request:
        """As urllib3 asks for it: the same one, which is used once."""
        return self

    @property
    def unheard(self) -> bool:
        """Whether it went over a kept connection, on which no byte of an answer came."""
        return self.reused and self.connection is not None and not self.connection.received


class _Connection:
    """Shared code of the connections for both schemes; a mixin for urllib3's."""

    def __init__(self, *args: Any, dial: Dial, **options: Any) -> None:
        super().__init__(*args, **options)
        self._dial = dial
        self._handle: Handle | None = None
        self._wire: Wire | None = None
        self._patience = 1.0
        self._served = 0
        self.answer: http.client.HTTPResponse | None = None

    @property
    def response_class(self) -> Any:
        """What `http.client` makes its answers with."""
        return self._answer

    @property
    def received(self) -> int:
        """Bytes of the answer that is under way."""
        return self._wire.received if self._wire is not None else 0

    @property
    def is_connected(self) -> bool:
        """Whether it can take another request."""
        clean = self._wire is None or not self._wire.surplus
        return clean and bool(super().is_connected)  # type: ignore[misc]

    def request(self, method: str, url: str, body: Any = None, headers: Any = None,
                **how: Any) -> None:  # fmt: skip
        if isinstance(headers, Request):
            url, self._patience = headers.target, headers.patience
            headers.connection = self
            headers.reused = self.sock is not None and self._served > 0  # type: ignore[attr-defined]
        self._wire = None
        try:
            super().request(method, url, body, headers, **how)  # type: ignore[misc]
            self._served += 1
        except (BrokenPipeError, ConnectionResetError):
            raise  # urllib3 looks whether an answer came before that
        except OSError as error:
            raise self._unsent(error) from error

    def _unsent(self, error: OSError) -> ImageBrokerError:
        peer = self._dial.peer
        if self._handle is not None and self._handle.aborted:
            return TransferError(f"{peer}: the connection was closed on our side")
        if isinstance(error, TimeoutError):
            return TransferTimeout(
                f"{peer} accepted no data for {self._dial.limits.stall_timeout:g} s",
                hint="check the server and the network; stall_timeout sets the limit",
            )
        return lost(peer, error)

    def _answer(
        self, sock: socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ) -> http.client.HTTPResponse:
        self._wire = _Owned(
            self, sock, self._dial.peer, self._dial.limits, method=method or "GET",
            handle=self._handle, buffers=self._dial.buffers, patience=self._patience,
        )  # fmt: skip
        self.answer = http.client.HTTPResponse(self._wire, debuglevel, method, url)  # type: ignore[arg-type]
        return self.answer

    def _new_conn(self) -> socket:
        sock = self._dial.connect()
        try:
            self._served = 0
            self._handle = Handle(sock)
            self._dial.adopt(self._handle)
        except BaseException:
            sock.close()
            self.let_go()
            raise
        return sock

    def close(self) -> None:
        super().close()  # type: ignore[misc]
        self.let_go()

    def let_go(self) -> None:
        """Close the handle, once neither the connection nor an answer needs it."""
        open_still = self.sock is not None or (self._wire is not None and not self._wire.closed)  # type: ignore[attr-defined]
        if self._handle is not None and not open_still:
            self._handle.close()


class _Owned(Wire):
    """The wire of a connection that may be closed before its answer is read."""

    def __init__(self, owner: _Connection, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._owner: _Connection | None = owner

    def close(self) -> None:
        super().close()
        # Each holds the other only until now: they are freed at once, not by the garbage collector.
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.let_go()


class _HttpConnection(_Connection, connection.HTTPConnection):  # type: ignore[override]
    pass


class _HttpsConnection(_Connection, connection.HTTPSConnection):  # type: ignore[override]
    def connect(self) -> None:
        with _tls_errors(self._dial.peer, self._dial.ca_option):
            sock = self._new_conn()
            try:
                sock.settimeout(self._dial.limits.connect_timeout)
                context, host = self.ssl_context, self.server_hostname
                if context is None or host is None:
                    raise RuntimeError("made without make_pool")
                self.sock = TlsSocket(sock, context, host)
            except BaseException:
                sock.close()
                self.let_go()
                raise
        # Where the deployer believes every certificate, no warning is due with each request.
        self.is_verified = True

    @property
    def is_connected(self) -> bool:
        """Whether it can take another request."""
        unread = isinstance(self.sock, TlsSocket) and self.sock.unread
        return not unread and super().is_connected


class HttpPool(connectionpool.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class HttpsPool(connectionpool.HTTPSConnectionPool):
    ConnectionCls = _HttpsConnection


def make_pool(
    host: str, port: int, dial: Dial, context: ssl.SSLContext | None
) -> connectionpool.HTTPConnectionPool:
    """The connections to one server; `context` for https."""
    if context is None:
        return HttpPool(host, port, maxsize=_IDLE, dial=dial)
    return HttpsPool(host, port, maxsize=_IDLE, dial=dial, ssl_context=context,
                     server_hostname=host.rstrip("."))  # fmt: skip


#: What OpenSSL says of an answer that is none of TLS, as from a server of plain http.
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


#: What to do about a certificate, by OpenSSL's code for what is wrong with it.
_CLOCK = "check this host's clock: date; if it is right, the server needs a new certificate"
_CERTIFICATES = {
    9: _CLOCK, 10: _CLOCK,  # not yet valid, expired
    **dict.fromkeys((62, 64), "write a host that the certificate names: openssl s_client -connect"
                    " HOST:PORT </dev/null | openssl x509 -noout -ext subjectAltName"),
}  # fmt: skip


def _handshake_remedy(reason: str) -> str:
    """What to do about OpenSSL's `reason` for a handshake that failed."""
    if reason in _NO_TLS:
        return "write http:// instead of https://, if that server has no TLS"
    if "ALERT_HANDSHAKE_FAILURE" in reason:
        return (
            f"set a client certificate, if the server wants one ({CLIENT_CERTIFICATE}); or check"
            " which versions and ciphers it has"
        )
    return "check that the port speaks TLS of at least min_tls"


@contextmanager
def _tls_errors(peer: str, ca_option: str) -> Iterator[None]:
    try:
        with _named(peer, ca_option):
            yield
    except ImageBrokerError as error:
        error.nothing_sent = True  # type: ignore[attr-defined]  # another server may be asked
        raise


@contextmanager
def _named(peer: str, ca_option: str) -> Iterator[None]:
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise PolicyViolation(
            f"{peer}: its certificate is refused: {error.verify_message}",
            hint=_CERTIFICATES.get(error.verify_code)
            or "if a private authority signed it, name its certificate: --ca-file FILE, or "
            f"{ca_option} in the config file; else the server must send its intermediate ones",
            option="" if error.verify_code in _CERTIFICATES else ca_option,
        ) from error
    except TimeoutError as error:
        raise TransferTimeout(
            f"{peer} did not finish the TLS handshake in time",
            hint="check that the port speaks TLS; connect_timeout sets the limit",
        ) from error
    except (ssl.SSLEOFError, ssl.SSLSyscallError, ConnectionError) as error:
        raise TransferError(
            f"{peer} closed the connection within the TLS handshake",
            hint="check that the port speaks TLS; try again",
        ) from error
    except OSError as error:
        if certificate := refused(peer, error):
            raise certificate from error
        reason = str(getattr(error, "reason", None))
        raise TransferError(
            f"{peer}: no TLS connection: {error.strerror or error}",
            hint=_handshake_remedy(reason),
            retryable=False,
        ) from error
