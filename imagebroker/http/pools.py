"""Single requests over pools of connections that come from the host."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from socket import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

from imagebroker.backends.backend import BackendHost, Limits
from imagebroker.exceptions import (
    ImageBrokerError,
    NotAuthorized,
    TransferError,
    TransferTimeout,
)
from imagebroker.http.buffers import Buffers
from imagebroker.http.head import Field, Head, Malformed, joined
from imagebroker.http.lost import lost
from imagebroker.http.tls import Tls
from imagebroker.http.urls import Place, Url
from imagebroker.http.wire import Handle, Wire
from imagebroker.policy.proxies import Proxy
from imagebroker.redaction import printable
from imagebroker.system import request_ids

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from urllib3 import BaseHTTPResponse, HTTPConnectionPool

    from imagebroker.http.connections import Request

#: What may be asked again without harm.
_SAFE = ("GET", "HEAD")
#: Asked of `Wire.read1`, which gives what has arrived.
_ANY = 1 << 30


class Answer:
    """The head of an answer, and its body, which is read or closed."""

    def __init__(
        self, place: Place, head: Head, response: BaseHTTPResponse, body: HTTPResponse
    ) -> None:
        self.place, self.head = place, head
        #: urllib3's.
        self.response = response
        #: `http.client`'s below it: urllib3's own reading takes 40 us for each block.
        self.body = body

    def blocks(self) -> Iterator[memoryview]:
        """The body as it arrives. At its end the connection is kept for the next request.

        :raises TransferError: it is cut, or its framing is broken.
        """
        body = self.body
        with translated(self.place.url.site):
            while block := body.read1(_ANY):
                if body.length == 0:
                    self._finish()  # now: the caller may not ask for more
                yield memoryview(block)
            self._finish()

    def _finish(self) -> None:
        """Give the connection back."""
        self.body.close()
        self.response.release_conn()

    def read(self, limit: int, *, seconds: float | None = None, whole: bool = True) -> bytes:
        """The whole body of an answer that is not image data; the answer is closed then.

        :param seconds: how long it may take.
        :param whole: False: of a longer one, the beginning is enough.
        :raises TransferError: it is longer than `limit`, or cut, or takes too long.
        """
        pieces, size = [], 0
        due = None if seconds is None else monotonic() + seconds
        try:
            for block in self.blocks():
                size += len(block)
                if due is not None and monotonic() > due:
                    raise TransferTimeout(
                        f"{self.place.url.site}: the answer took more than {seconds:g} s",
                        hint="the server or the network is too slow; try again later",
                    )
                if size > limit and not whole:
                    break
                if size > limit:
                    raise TransferError(
                        f"{self.place.url.site}: the answer is longer than {limit} bytes",
                        hint="check that the URL names the right server",
                        retryable=False,
                    )
                pieces.append(bytes(block))
        finally:
            self.close()
        return b"".join(pieces)

    def close(self) -> None:
        """End it. One whose body was read to its end has given its connection back already."""
        self.response.close()


class Pools:
    """The connections of one user: a source, or a client of some service. Threads may share it."""

    def __init__(self, host: BackendHost, tls: Tls, agent: Callable[[], str]) -> None:
        self.host, self.tls, self._agent = host, tls, agent
        self.buffers = Buffers(host.limits.chunk_size)
        self._lock = threading.Lock()
        self._pools: dict[tuple[Any, ...], HTTPConnectionPool] = {}
        self._live: weakref.WeakSet[Handle] = weakref.WeakSet()
        self.closed = False
        #: Whether a server was reached.
        self.reached = False
        #: The address of each server that answered first: its neighbours may have other versions.
        self._addresses: dict[tuple[str, int], str] = {}

    def send(
        self,
        method: str,
        place: Place,
        fields: Sequence[Field],
        body: Any = None,
        *,
        patience: float = 1.0,
    ) -> Answer:
        """The answer to one request, whatever its status; no redirect is followed.

        A GET or HEAD is sent again where a kept connection turned out to be dead. Anything else
        goes over a new connection, once.

        :param patience: multiplies the time that the server has to begin its answer.
        :raises PolicyViolation: the address or the certificate is refused; nothing was sent.
        :raises TransferError, NotAuthorized: there is no answer; a proxy does not let us through.
        """
        from imagebroker.http.connections import Request

        url, proxy = place.url, self.host.proxy(place.url.scheme, place.url.host, place.url.port)
        target, every = url.target, list(fields)
        if proxy is not None and url.scheme == "http":
            target = url.site + url.target
            every += _identified(proxy)
        if method not in _SAFE:
            self._forget_idle()
        while True:
            request = Request(joined(every), target, patience)
            request_ids.asking()
            try:
                answer = self._exchange(method, place, proxy, request, body)
            except TransferError as error:
                # A server may close a kept connection at any time, also while we ask.
                if method not in _SAFE or not request.unheard or isinstance(error, TransferTimeout):
                    raise
            else:
                break
        request_ids.answered(answer.head.get)
        if answer.head.status == 407 and proxy is not None:
            answer.close()
            raise _unwelcome(proxy, answer.head)
        return answer

    def _exchange(
        self, method: str, place: Place, proxy: Proxy | None, request: Request, body: Any
    ) -> Answer:
        from urllib3 import Timeout

        limits = self.host.limits
        unmeasured = not (body is None or isinstance(body, bytes)) and not any(
            name.lower() == "content-length" for name in request
        )
        with _unsendable(place.url.site), translated(place.url.site):
            response = self._opened(
                place, proxy, method,
                place.url.path,  # for urllib3's log; what is sent is request.target
                headers=request,
                body=body,
                chunked=unmeasured,
                timeout=Timeout(connect=limits.connect_timeout, read=limits.stall_timeout),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
                enforce_content_length=False,  # the wire does
            )  # fmt: skip
        return Answer(place, _head(response), response, request.answer)

    def _opened(
        self, place: Place, proxy: Proxy | None, method: str, path: str, **how: Any
    ) -> BaseHTTPResponse:
        from urllib3.exceptions import ClosedPoolError

        while True:
            pool = self._pool(place, proxy)
            try:
                return pool.urlopen(method, path, **how)
            except ClosedPoolError:
                continue  # another thread has forgotten it meanwhile; nothing was sent

    def _pool(self, place: Place, proxy: Proxy | None) -> HTTPConnectionPool:
        from imagebroker.http.connections import make_pool

        key = (*place.key, proxy)
        with self._lock:
            self._check_open(place.url)
            pool = self._pools.get(key)
            if pool is None:
                context = None
                if place.url.scheme == "https":
                    context = self.tls.context(identified=place.identified)
                dial = _Dial(self, place.url, proxy)
                pool = make_pool(place.url.host, place.url.port, dial, context)
                self._pools[key] = pool
        return pool

    def _check_open(self, url: Url) -> None:
        if self.closed:
            raise TransferError(f"{url}: the source was closed")

    def adopt(self, handle: Handle, url: Url) -> None:
        with self._lock:
            self._check_open(url)
            self._live.add(handle)
            self.reached = True

    def connect(self, url: Url, proxy: Proxy | None) -> socket:
        """A socket to the server of `url`, or to what `proxy` connects it to."""
        where = (proxy.host, proxy.port) if proxy is not None else (url.host, url.port)
        try:
            sock = self.host.connect_web(
                url.scheme, url.host, url.port, proxy, prefer=self._addresses.get(where)
            )
        except ImageBrokerError as error:
            self._addresses.pop(where, None)
            error.nothing_sent = True  # type: ignore[attr-defined]  # another server may be asked
            raise
        try:
            self._addresses.setdefault(where, sock.getpeername()[0])
            if proxy is not None and url.scheme == "https":
                self.reached = True
                _tunnel(sock, url, proxy, self.host.limits, self._agent())
        except OSError as error:  # it hung up at once
            sock.close()
            raise TransferError(
                f"{url.site} closed the connection: {error.strerror}",
                hint="the server may be overloaded or going down; try again",
            ) from error
        except BaseException:
            sock.close()
            raise
        return sock

    def _forget_idle(self) -> None:
        with self._lock:
            pools = list(self._pools.values())
            self._pools.clear()
        for pool in pools:
            pool.close()

    def close(self) -> None:
        """End all requests, from any thread; idempotent."""
        with self._lock:
            self.closed = True
            live = list(self._live)
        for handle in live:
            handle.abort()
        self._forget_idle()
        self.buffers.clear()  # an error's traceback may hold this for long


class _Dial:
    """How the pool of one server connects."""

    def __init__(self, pools: Pools, url: Url, proxy: Proxy | None) -> None:
        self.pools, self.url, self.proxy = pools, url, proxy

    @property
    def peer(self) -> str:
        return self.url.site

    @property
    def limits(self) -> Limits:
        return self.pools.host.limits

    @property
    def buffers(self) -> Buffers:
        return self.pools.buffers

    @property
    def ca_option(self) -> str:
        return self.pools.tls.shown("ca_file")

    def connect(self) -> socket:
        return self.pools.connect(self.url, self.proxy)

    def adopt(self, handle: Handle) -> None:
        self.pools.adopt(handle, self.url)


class translated:  # noqa: N801 - reads as what it does, as those of contextlib do
    """Turn what urllib3 and http.client raise by themselves into ours."""

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or isinstance(error, ImageBrokerError) or not isinstance(error, Exception):
            return
        from http.client import HTTPException

        from urllib3.exceptions import HTTPError, ProtocolError

        if isinstance(error, ProtocolError) and _has_os_error(error):
            raise TransferError(
                f"{self._peer}: the connection was lost",
                hint="try again; if it happens again, check the server and the network",
            ) from error
        if isinstance(error, (HTTPError, HTTPException)):
            # What the gate lets through they can read: if not, the versions do not fit together.
            raise Malformed(f"{self._peer}: {printable(type(error).__name__, 60)}") from error
        if isinstance(error, OSError):
            raise lost(self._peer, error) from error


@contextmanager
def _unsendable(peer: str) -> Iterator[None]:
    """http.client shows the header that it refuses to send: it may be a secret."""
    try:
        yield
    except ValueError:
        raise TransferError(
            f"{peer}: the request has a header that cannot be sent",
            hint="look for line breaks and odd characters in user names, passwords and tokens",
            retryable=False,
        ) from None


def _has_os_error(error: BaseException) -> bool:
    return any(isinstance(each, OSError) for each in error.args)


def _head(response: BaseHTTPResponse) -> Head:
    fields = [(name.lower(), value) for name, value in response.headers.iteritems()]
    return Head(response.version % 10, response.status, response.reason or "", fields)


def _tunnel(sock: socket, url: Url, proxy: Proxy, limits: Limits, agent: str) -> None:
    """Have the proxy connect us to the server of `url`."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    target = f"{host}:{url.port}"
    fields = [("Host", target), ("User-Agent", agent), *_identified(proxy)]
    lines = [f"CONNECT {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    wire = Wire(sock, url.site, limits, method="CONNECT")
    try:
        sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        head = wire.read_head()
    finally:
        wire.close()
    if 200 <= head.status < 300:
        if wire.surplus:
            raise Malformed(f"{url.site} sent data before any request")
        return
    if head.status in (401, 407):
        raise _unwelcome(proxy, head)
    message = _answered(proxy, head)
    if head.status == 403:
        raise NotAuthorized(message, hint=f"ask its owner to let this host reach {target}")
    raise TransferError(message, hint=f"check that the proxy can reach {target}")


def _identified(proxy: Proxy) -> list[Field]:
    return [("Proxy-Authorization", proxy.authorization)] if proxy.authorization else []


def _answered(proxy: Proxy, head: Head) -> str:
    return f"{proxy.title} answers {head.status} {printable(head.reason, 80)}".rstrip()


def _unwelcome(proxy: Proxy, head: Head) -> NotAuthorized:
    return NotAuthorized(_answered(proxy, head), hint=proxy.credentials_hint)
