"""HTTP to the servers of one backend instance, and nothing that a server can make of it.

Every connection comes from the host (its address policy holds for the address connected to), no
redirect is followed, nothing is sent twice, no environment variable or .netrc is read, no answer
but image data is read without a bound, and errors come out as ours.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic
from urllib.parse import urlsplit

import urllib3
from urllib3 import exceptions as errors

from imagebroker.plugin import (
    BackendHost,
    ImageBrokerError,
    Options,
    PolicyViolation,
    TransferError,
    TransferTimeout,
    foreign_coding,
    printable,
)
from imagebroker_glance.connections import Now, Pools, tls_context

Reply = urllib3.BaseHTTPResponse
Body = bytes | Iterable[bytes] | None
_PIECE = 64 * 1024


class Wire:
    """Sends single requests. One serves all threads of a backend instance."""

    def __init__(self, host: BackendHost, options: Options) -> None:
        """:raises ConfigError: a certificate file cannot be used."""
        self.limits = host.limits
        self._seconds = options.get("timeout") or host.limits.stall_timeout
        self._answer_seconds = 2 * self._seconds
        self._now = Now()
        self._pools = Pools(host, tls_context(options), self._now)

    @contextlib.contextmanager
    def watched(self, hook: Callable[[socket.socket], None]) -> Iterator[None]:
        """Tell `hook` about every socket on which this thread waits for an answer meanwhile."""
        self._now.hook = hook
        try:
            yield
        finally:
            self._now.hook = None

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body = None,
        patience: float = 1.0,
    ) -> Reply:
        """The reply whose head has arrived and whose body is unread; any status is a reply.

        `patience` multiplies the time that the server has to begin its answer.

        :raises TransferError: `.nothing_sent` is true if no connection was made.
        :raises PolicyViolation: the address or the certificate is refused.
        """
        sent = {"User-Agent": "imagebroker", "Accept-Encoding": "identity", **headers}
        unmeasured = not (body is None or isinstance(body, bytes) or "Content-Length" in sent)
        # The first is not about connecting (the host limits that) but about handshake and sending.
        timeout = urllib3.Timeout(connect=self._seconds, read=self._seconds * patience)
        self._now.head_seconds = self._seconds * patience
        if method != "GET":
            # What is not safe to repeat goes over a new connection: idle ones may be closing.
            self._pools.clear()
        with translated(url):
            while True:
                self._now.fresh = False
                try:
                    return self._pools.urlopen(
                        method,
                        url,
                        headers=sent,
                        body=body,
                        chunked=unmeasured,
                        timeout=timeout,
                        retries=False,
                        redirect=False,
                        preload_content=False,
                        decode_content=False,
                    )
                except errors.ProtocolError:
                    # A kept connection that the server has closed meanwhile says nothing.
                    if method != "GET" or self._now.fresh:
                        raise

    def read_all(self, reply: Reply, url: str, limit: int, *, whole: bool = True) -> bytes:
        """The body of an answer that is not image data.

        :param whole: False: of a longer one the beginning will do.
        :raises TransferError: it is longer than `limit`, encoded, cut, or takes too long.
        """
        refuse_encoding(reply, url)
        ends = monotonic() + self._answer_seconds
        pieces: list[bytes] = []
        size = 0
        try:
            with translated(url):
                while piece := reply.read1(_PIECE):
                    size += len(piece)
                    if size > limit and not whole:
                        reply.close()
                        break
                    if size > limit:
                        raise TransferError(
                            f"{origin(url)}: the answer is longer than {limit} bytes",
                            hint="check that the endpoint is the image service",
                        )
                    if monotonic() > ends:
                        raise TransferTimeout(
                            f"{origin(url)}: the answer took more than {self._answer_seconds:g} s",
                            hint="the server or the network is too slow; try again later",
                        )
                    pieces.append(piece)
        except BaseException:
            reply.close()
            raise
        reply.release_conn()
        return b"".join(pieces)

    def close(self) -> None:
        """Close idle connections."""
        self._pools.clear()


def origin(url: str) -> str:
    """Scheme, host and port of `url`, the port spelled out: what credentials are bound to."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://[{host}]:{port}" if ":" in host else f"{parts.scheme}://{host}:{port}"


def refuse_encoding(reply: Reply, url: str) -> None:
    """Nothing is decoded: a small answer could become a huge one.

    :raises TransferError: the body is compressed, though `identity` was asked for.
    """
    coding = foreign_coding(reply.headers.getlist("Content-Encoding"), ())
    if coding:
        reply.close()
        raise TransferError(
            f"{origin(url)}: the answer is encoded as {printable(coding, 60)!r}, and nobody asked",
            hint="switch compression off in the server or proxy",
        )


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Turn the exceptions of urllib3, http.client and ssl into ours. Also while streaming."""
    try:
        yield
    except ImageBrokerError:
        raise
    except (errors.HTTPError, ssl.SSLError, OSError, ValueError) as error:
        # ValueError: http.client names headers that it refuses to send; the text may be a secret.
        raise _ours(origin(url), error) from (None if isinstance(error, ValueError) else error)


def _ours(server: str, error: Exception) -> ImageBrokerError:
    causes = _causes(error)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return PolicyViolation(
                f"{server}: the certificate is refused: {cause.verify_message}",
                hint="if a private authority signed it, name its certificate: --ca-file FILE, or "
                "cafile in the config file",
                nothing_sent=True,
                option="cafile",
            )
    if any(isinstance(each, (errors.TimeoutError, TimeoutError)) for each in causes):
        return TransferTimeout(
            f"{server} went silent", hint="check the server's load and the network"
        )
    if any(isinstance(each, ssl.SSLError) for each in causes):
        return TransferError(
            f"{server}: TLS failed: {causes[-1]}", hint="check that the endpoint speaks https"
        )
    if isinstance(error, ValueError):
        return TransferError(
            f"{server}: the request or its answer is malformed",
            hint="check that the endpoint is the image service",
            retryable=False,
        )
    return TransferError(
        f"{server}: the connection broke: {causes[-1]}", hint="check the server and the network"
    )


def _causes(error: BaseException) -> list[BaseException]:
    """`error` and what urllib3 wrapped into it, outermost first."""
    found = [error]
    while True:
        inner = [getattr(found[-1], "original_error", None), *reversed(found[-1].args)]
        following = next((each for each in inner if isinstance(each, BaseException)), None)
        if following is None or len(found) > 8:
            return found
        found.append(following)


def nothing_sent(error: BaseException) -> bool:
    """Whether `error` came before a connection stood, so that any request may go elsewhere."""
    return getattr(error, "nothing_sent", False) is True
