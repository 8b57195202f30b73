"""Requests on behalf of one source: redirects, credentials, proxy, connections that are kept."""

from __future__ import annotations

import base64
import importlib.metadata
import threading
import weakref
from dataclasses import dataclass
from functools import cache
from socket import socket

from imagebroker.plugin import (
    BackendHost,
    ConfigError,
    NotAuthorized,
    Options,
    Proxy,
    TransferError,
    TransferTimeout,
    printable,
)
from imagebroker_http.buffers import Buffers
from imagebroker_http.digests import WANTED
from imagebroker_http.head import Field, Head
from imagebroker_http.place import Place, Url
from imagebroker_http.stream import Malformed
from imagebroker_http.tls import Tls
from imagebroker_http.wire import Connection

#: What says "ask there"; a GET or HEAD stays what it is with all of them.
_REDIRECTS = (301, 302, 303, 307, 308)
#: Answers of an address that was redirected to and may have been meant for a moment only.
_EXPIRED = (401, 403, 404, 410)


class Client:
    """What the sessions of one instance share: the deployer's options."""

    def __init__(self, host: BackendHost) -> None:
        """:raises ConfigError: an option cannot be used."""
        title = ":".join(filter(None, ("backend", host.name, host.instance)))
        options = host.options
        self.host = host
        self.tls = Tls(options, title)
        host.proxies  # noqa: B018 - one that cannot be used shows now, not in a download
        self._origins = {
            Url.parse(text).origin
            for text in options.get("endpoint") or ()
            if text.startswith(("http://", "https://"))
        }
        self._authorization = _authorization(options, title, bool(self._origins))

    def proxy(self, url: Url) -> Proxy | None:
        return self.host.proxy(url.scheme, url.host, url.port)

    def start(self, text: str) -> Place:
        """Where a ref leads. Credentials need an endpoint; without one there is at most a client
        certificate, for the server that the ref names."""
        url = Url.parse(text)
        return Place(url, not self._origins or url.origin in self._origins)

    def moved(self, place: Place, head: Head) -> Place:
        """Where a redirect leads.

        :raises PolicyViolation: it may not lead there.
        """
        locations = head.all("location")
        if len(locations) != 1:
            raise Malformed(f"{place.url}: a redirect with {len(locations)} locations")
        url = Url.parse(self.host.redirect(place.url.text, locations[0]))
        return Place(url, place.identified and url.origin == place.url.origin)

    def fields(self, place: Place) -> list[Field]:
        """The headers that every request has."""
        fields = [
            ("Host", place.url.netloc),
            ("User-Agent", _user_agent()),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
            WANTED,
        ]
        if place.identified and self._authorization:
            fields.append(("Authorization", self._authorization))
        return fields


@dataclass
class Answer:
    """The head of an answer, and the connection on which its body comes."""

    place: Place
    head: Head
    connection: Connection

    def close(self) -> None:
        self.connection.close()


class Session:
    """The requests for one image. Threads may share it; each closes or gives back its answers."""

    def __init__(self, client: Client, text: str) -> None:
        self._client = client
        self._start = client.start(text)
        #: What messages call the image: its URL without the query.
        self.title = str(self._start.url)
        #: Where the last redirect led: later requests are for the same bytes, so go to that server.
        self._place = self._start
        self._buffers = Buffers(client.host.limits.chunk_size)
        self._lock = threading.Lock()
        self._live: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._idle: dict[tuple[object, ...], list[Connection]] = {}
        self._closed = False
        #: Whether a server was reached, and told what is wanted of it.
        self.asked = False
        #: The address of each server that answered first: its neighbours may have other versions.
        self._addresses: dict[tuple[str, int], str] = {}

    def request(self, method: str, *fields: Field) -> Answer:
        """The answer to a request, after at most `limits.redirects` redirects; any status.

        :raises PolicyViolation: an address, a redirect or a certificate is refused.
        :raises TransferError: there is no answer.
        """
        place = self._place
        if place is not self._start:
            try:
                answer = self._follow(method, place, fields)
            except (TransferError, NotAuthorized):
                if self._closed:
                    raise
            else:
                if answer.head.status not in _EXPIRED:
                    return answer
                answer.close()
        return self._follow(method, self._start, fields)

    def _follow(self, method: str, place: Place, fields: tuple[Field, ...]) -> Answer:
        limit = self._client.host.limits.redirects
        for _ in range(limit + 1):
            answer = self._exchange(method, place, fields)
            if answer.head.status not in _REDIRECTS:
                self._place = place
                return answer
            answer.close()
            place = self._client.moved(place, answer.head)
        raise TransferError(
            f"{self.title} leads through more than {limit} redirects",
            hint="check the URL: the server may be sending it in circles",
            retryable=False,
        )

    def _exchange(self, method: str, place: Place, fields: tuple[Field, ...]) -> Answer:
        url, proxy = place.url, self._client.proxy(place.url)
        every = [*self._client.fields(place), *fields]
        target = url.target
        if proxy is not None and url.scheme == "http":
            target = url.site + url.target
            every += _identified(proxy)
        kept = self._take(place)
        connection = kept or self._dial(place)
        self.asked = True
        try:
            try:
                head = connection.exchange(method, target, every)
            except TransferError as error:
                # A server may close a kept connection at any time, also while we ask.
                if kept is None or not kept.silent or isinstance(error, TransferTimeout):
                    raise
                kept.close()
                connection = self._dial(place)
                head = connection.exchange(method, target, every)
        except BaseException:
            connection.close()
            raise
        if head.status == 407 and proxy is not None:
            connection.close()
            raise _unwelcome(proxy, head)
        return Answer(place, head, connection)

    def _dial(self, place: Place) -> Connection:
        client, url = self._client, place.url
        host, proxy = client.host, client.proxy(url)
        sock = self._connect(url, proxy)
        connection = Connection(sock, url.site, host.limits, self._buffers)
        try:
            self._adopt(connection)
            if url.scheme == "https":
                if proxy is not None:
                    _tunnel(connection, url, proxy)
                context = client.tls.context(identified=place.identified)
                connection.start_tls(context, url.host.rstrip("."))
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self, url: Url, proxy: Proxy | None) -> socket:
        where = (proxy.host, proxy.port) if proxy is not None else (url.host, url.port)
        try:
            sock = self._client.host.connect_web(
                url.scheme, url.host, url.port, proxy, prefer=self._addresses.get(where)
            )
        except TransferError:
            self._addresses.pop(where, None)
            raise
        try:
            self._addresses.setdefault(where, sock.getpeername()[0])
        except OSError as error:  # it hung up at once
            sock.close()
            raise TransferError(
                f"{url.site} closed the connection: {error.strerror}",
                hint="the server may be overloaded or going down; try again",
            ) from error
        return sock

    def _adopt(self, connection: Connection) -> None:
        with self._lock:
            if self._closed:
                raise TransferError(f"{self.title}: the source was closed")
            self._live.add(connection)

    def _take(self, place: Place) -> Connection | None:
        """A connection from an earlier request, unless its server has said something since."""
        with self._lock:
            kept = self._idle[place.key].pop() if self._idle.get(place.key) else None
        if kept is not None and not kept.quiet:
            kept.close()
            return None
        return kept

    def give_back(self, answer: Answer) -> None:
        """The caller is done with an answer: its connection is kept if another may follow."""
        with self._lock:
            if answer.connection.reusable and not self._closed:
                self._idle.setdefault(answer.place.key, []).append(answer.connection)
                return
        answer.close()

    def close(self) -> None:
        """End all requests, from any thread; idempotent."""
        with self._lock:
            self._closed = True
            idle = [connection for kept in self._idle.values() for connection in kept]
            self._idle.clear()
            live = list(self._live)
        for connection in live:
            connection.abort()
        for connection in idle:
            connection.close()


def _tunnel(connection: Connection, url: Url, proxy: Proxy) -> None:
    """Have the proxy connect us to the server of `url`."""
    host = f"[{url.host}]" if ":" in url.host else url.host
    target = f"{host}:{url.port}"
    fields = [("Host", target), ("User-Agent", _user_agent()), *_identified(proxy)]
    head = connection.exchange("CONNECT", target, fields)
    if 200 <= head.status < 300:
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


def _authorization(options: Options, title: str, bound: bool) -> str | None:
    if options.username is None and options.password is None:
        return None
    if not bound:
        raise ConfigError(
            f"[{title}] username and password are set, and no endpoint",
            hint="set endpoint to the URL prefix that they are for",
        )
    if not options.username or ":" in options.username:
        raise ConfigError(
            f"[{title}] password needs a username without colons", hint="set username"
        )
    pair = f"{options.username}:{options.password or ''}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


@cache
def _user_agent() -> str:
    try:
        return f"imagebroker/{importlib.metadata.version('imagebroker')}"
    except importlib.metadata.PackageNotFoundError:
        return "imagebroker"
