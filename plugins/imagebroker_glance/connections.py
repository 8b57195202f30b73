"""urllib3's connections, made so that they come from the host and that every wait ends."""

from __future__ import annotations

import contextlib
import http.client
import io
import logging
import os
import socket
import ssl
import stat
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3 import connection, connectionpool, exceptions

from imagebroker.plugin import (
    BackendHost,
    ConfigError,
    ImageBrokerError,
    NotAuthorized,
    Options,
    Proxy,
)

LOG = logging.getLogger(__name__)


class Now(threading.local):
    """What holds for the request that a thread is sending."""

    #: Told about the socket on which the thread then waits for an answer.
    hook: Callable[[socket.socket], None] | None = None
    #: Seconds that the head of the answer may take.
    head_seconds: float = 30.0
    #: Whether it goes over a connection that was made for it.
    fresh: bool = False


class Pools:
    """Pool managers whose every socket comes from `host`: one without a proxy, one for each."""

    def __init__(self, host: BackendHost, tls: ssl.SSLContext, now: Now) -> None:
        """:raises ConfigError: the configured proxy cannot be used."""
        host.proxies  # noqa: B018 - shows it now, not at the first request
        self._host, self._tls, self._now = host, tls, now
        self._managers: dict[Proxy | None, urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def urlopen(self, method: str, url: str, **how: Any) -> urllib3.BaseHTTPResponse:
        """One request, through the proxy for `url` where there is one.

        :raises NotAuthorized: the proxy does not let us through.
        """
        proxy = self._proxy(url)
        try:
            reply = self._manager(proxy).urlopen(method, url, **how)
        except exceptions.ProxyError as error:
            if proxy is not None and " 407 " in f"{error.original_error} ":
                raise NotAuthorized(
                    f"{proxy.title} answers 407", hint=proxy.credentials_hint
                ) from error
            raise
        if reply.status == 407 and proxy is not None:
            reply.close()
            raise NotAuthorized(f"{proxy.title} answers 407", hint=proxy.credentials_hint)
        return reply

    def _proxy(self, url: str) -> Proxy | None:
        parts = urlsplit(url)
        port = parts.port or {"https": 443}.get(parts.scheme, 80)
        return self._host.proxy(parts.scheme, parts.hostname or "", port)

    def _manager(self, proxy: Proxy | None) -> urllib3.PoolManager:
        with self._lock:
            if proxy not in self._managers:
                self._managers[proxy] = _make_manager(self._host, self._tls, proxy, self._now)
            return self._managers[proxy]

    def clear(self) -> None:
        """Close idle connections."""
        with self._lock:
            managers = list(self._managers.values())
        for manager in managers:
            manager.clear()


def _make_manager(
    host: BackendHost, tls: ssl.SSLContext, proxy: Proxy | None, now: Now
) -> urllib3.PoolManager:
    insecure = tls.verify_mode == ssl.CERT_NONE

    class Response(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
            super().__init__(sock, *args, **kwargs)
            if now.hook is not None:
                now.hook(sock)
            self._raw = _Hurried(self.fp.detach(), monotonic() + now.head_seconds)
            self.fp = io.BufferedReader(self._raw)

        def begin(self) -> None:
            super().begin()
            if self._raw.at_end:
                # http.client takes what there is for the whole head.
                raise http.client.IncompleteRead(b"")
            if self.msg is not None and self.msg.get_payload():
                # urllib3 would go on, and write what it could not read into the log as it is.
                raise http.client.HTTPException("a header is malformed")
            self._raw.ends = None  # how fast image data must come is for the core to say

    class Http(connection.HTTPConnection):
        response_class = Response

        def _new_conn(self) -> socket.socket:
            return _dial(host, "http", self, proxy, now)

    class Https(connection.HTTPSConnection):
        response_class = Response

        def _new_conn(self) -> socket.socket:
            return _dial(host, "https", self, proxy, now)

        def connect(self) -> None:
            super().connect()
            # The deployer said so twice, and was warned once: not again with every request.
            self.is_verified = self.is_verified or insecure

    class HttpPool(connectionpool.HTTPConnectionPool):
        ConnectionCls = Http

    class HttpsPool(connectionpool.HTTPSConnectionPool):
        ConnectionCls = Https

    kept: dict[str, Any] = {"maxsize": 64, "ssl_context": tls}
    if proxy is None:
        pools = urllib3.PoolManager(**kept)
    else:
        secret = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
        pools = urllib3.ProxyManager(proxy.site, proxy_headers=secret, **kept)
    pools.pool_classes_by_scheme = {"http": HttpPool, "https": HttpsPool}
    return pools


class _Hurried(io.RawIOBase):
    """A socket's file that gives up at a time, even if a byte comes now and then."""

    def __init__(self, raw: io.RawIOBase, ends: float) -> None:
        self._raw = raw
        self.ends: float | None = ends
        self.at_end = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.ends is not None and monotonic() > self.ends:
            raise TimeoutError("the head of the answer takes too long")
        count = self._raw.readinto(buffer)
        self.at_end = count == 0
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _dial(
    host: BackendHost, scheme: str, conn: connection.HTTPConnection, proxy: Proxy | None, now: Now
) -> socket.socket:
    now.fresh = True
    try:
        return host.connect_web(scheme, conn.host, conn.port, proxy)
    except ImageBrokerError as error:
        error.nothing_sent = True  # type: ignore[attr-defined]  # another server may be asked
        raise


def tls_context(options: Options) -> ssl.SSLContext:
    """Certificates and keys as the options name them.

    :raises ConfigError: a file cannot be used.
    """
    cafile, certfile, keyfile = (options.get(name) for name in ("cafile", "certfile", "keyfile"))
    try:
        # Not `create_default_context`: it writes session keys where SSLKEYLOGFILE says.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = getattr(ssl.TLSVersion, options.min_tls.replace(".", "_"))
        context.hostname_checks_common_name = False
        if cafile:
            context.load_verify_locations(cafile)
        else:
            context.load_default_certs()
    except (OSError, ssl.SSLError) as error:
        raise _unusable("cafile", cafile, error) from error
    if certfile:
        _warn_if_readable(keyfile or certfile)
        try:
            # Without a password function, OpenSSL would ask on the terminal.
            context.load_cert_chain(certfile, keyfile or None, password=lambda: b"")
        except (OSError, ssl.SSLError) as error:
            raise _unusable("certfile", certfile, error) from error
    if options.get("insecure"):
        LOG.warning("certificates are not checked (insecure is set)")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _unusable(option: str, path: str | None, error: Exception) -> ConfigError:
    reason = getattr(error, "strerror", None) or error
    return ConfigError(
        f"{option} {path or '(the system certificates)'} cannot be used: {reason}",
        hint="it names a readable PEM file",
    )


def _warn_if_readable(path: str) -> None:
    with contextlib.suppress(OSError):
        if os.stat(path).st_mode & stat.S_IROTH:
            LOG.warning("everybody on this host may read the key in %s", path)
