"""keystoneauth sessions: all over one set of connections, each for one kind of answer."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import cached_property
from typing import Any, ClassVar

import requests
from keystoneauth1 import session

from imagebroker.plugin import BackendHost, Options, http
from imagebroker_glance.errors import parse, refuse

#: Maximum size of one record, in bytes.
MAX_RECORD = 1024 * 1024
#: Factor for the timeout of a response, while the server stores the data.
STORE_FACTOR = 20.0
#: The header with the id of the caller's request, which OpenStack's services log.
GLOBAL_ID = "X-Openstack-Request-Id"
#: What keystoneauth calls the options of TLS.
TLS_NAMES = {"ca_file": "cafile", "cert_file": "certfile", "key_file": "keyfile"}


def make_client(host: BackendHost, options: Options) -> http.Client:
    """What HTTP needs of the options. The client certificate is shown to every server: they are
    named by the deployer, or by the catalogue of the deployer's Keystone.

    :raises ConfigError: options of TLS contradict each other, or a file cannot be used.
    """
    named = {name: options.get(theirs) for name, theirs in TLS_NAMES.items()}
    same = {name: options.get(name) for name in ("insecure", "allow_insecure", "min_tls", "proxy")}
    values = Options({**named, **same})
    seconds = options.get("timeout") or host.limits.stall_timeout
    limits = dataclasses.replace(host.limits, stall_timeout=seconds)
    return http.Client(
        dataclasses.replace(host, options=values, limits=limits),
        tls=http.Tls(values, f"backend:{host.title}", TLS_NAMES),
    )


class Sessions:
    """The connections of one user: a backend, or one opened image, which closes its own."""

    def __init__(self, client: http.Client) -> None:
        self.limits = client.host.limits
        self._client, self._pools = client, client.pools()

    @cached_property
    def records(self) -> session.Session:
        """For everything that is about one image."""
        return self._make(parse, limit=min(MAX_RECORD, self.limits.max_answer), streams=False)

    @cached_property
    def pages(self) -> session.Session:
        """For lists."""
        return self._make(parse, streams=False)

    @cached_property
    def data(self) -> session.Session:
        """For the bytes of images."""
        return self._make(refuse)

    @cached_property
    def uploads(self) -> session.Session:
        return self._make(refuse, streams=False, patience=STORE_FACTOR)

    def _make(
        self, hook: Callable[..., requests.Response], **how: Any
    ) -> session.Session:  # fmt: skip
        made = http.requests_session(self._client, pools=self._pools, redirects=False, **how)
        made.headers["Accept"] = "application/json"
        made.hooks["response"] = [hook]
        return _Prompt(session=made, redirect=False)

    def close(self) -> None:
        """End all requests, from any thread; idempotent."""
        self._pools.close()


class _Prompt(session.Session):
    """Never waits before a request: an Adapter's limit of rates, which is none, compares with the
    time of day, and would wait until that is reached again after the clock was set back."""

    def request(self, *args: Any, **options: Any) -> requests.Response:
        return super().request(*args, **{**options, "rate_semaphore": contextlib.nullcontext()})


class KeystoneSession(session.Session):
    """Sends the id of the caller's request along while a token is fetched for it."""

    _request_id: ClassVar[ContextVar[str | None]] = ContextVar("global_id", default=None)

    @contextlib.contextmanager
    def on_behalf_of(self, request_id: str | None) -> Iterator[None]:
        """Requests within it, in this thread, are made for that request of a caller."""
        token = self._request_id.set(request_id)
        try:
            yield
        finally:
            self._request_id.reset(token)

    def request(self, *args: Any, **options: Any) -> requests.Response:
        found = self._request_id.get()
        if found is not None:
            options["headers"] = {GLOBAL_ID: found, **(options.get("headers") or {})}
        return super().request(*args, **options)
