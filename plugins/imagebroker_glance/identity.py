"""The token of a request, and the endpoint of the image service, from keystoneauth.

The configured identity of the service and a caller's token are never mixed: a caller's request has
the caller's token, or is refused, and only the service's own token is renewed.
"""

from __future__ import annotations

import abc
import random
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import urlsplit

from keystoneauth1 import plugin
from keystoneauth1.access import service_catalog

from imagebroker.plugin import (
    BackendError,
    BackendHost,
    ConfigError,
    NotAuthorized,
    Options,
    http,
)
from imagebroker.plugin import keystone as shared
from imagebroker_glance import record
from imagebroker_glance.options import backend_options, interfaces
from imagebroker_glance.sessions import KeystoneSession
from imagebroker_glance.urls import origin

_TOKEN = re.compile(r"[!-~]{1,16384}")
_REQUEST_ID = re.compile(r"req-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Identity(plugin.BaseAuthPlugin, abc.ABC):
    """The identity of a request to Glance: the service itself, or a caller with a token."""

    #: Sent along with each request, for the logs of the services.
    request_id: str | None = None

    def __init__(self, conceal: Callable[..., None]) -> None:
        super().__init__()
        self._secrets: set[str] = set()
        self._conceal = conceal

    def get_headers(self, session: Any = None) -> dict[str, str]:
        """The headers with its token. Only for `servers`."""
        headers = self._proof()
        self._secrets.update(filter(None, headers.values()))
        self._conceal(*headers.values())
        return headers

    def hide(self, text: str) -> str:
        """`text` without the tokens that were sent: a server may echo them in errors."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    @abc.abstractmethod
    def _proof(self) -> dict[str, str]: ...

    @abc.abstractmethod
    def servers(self) -> list[str]:
        """URL prefixes, each ending in `/`, in the order in which to try them."""

    def renew(self) -> bool:
        """Get a new token after a 401; False if that is not possible."""
        return False

    def outlive(self) -> None:
        """The request may take longer than its token is valid."""


class Keystone:
    """Makes identities from the options of one backend instance."""

    def __init__(
        self, host: BackendHost, options: Options, client: http.Client, where: str
    ) -> None:
        """:raises ConfigError: the auth options do not fit together."""
        self.where = where
        self._personal = host.personal
        self.conceal = host.conceal
        self.options = options
        self._login = shared.Login.of(options, personal=host.personal)
        #: The configured endpoints; one that fails is moved to the end.
        self.endpoints = [url.rstrip("/") + "/" for url in options.get("endpoint") or ()]
        random.shuffle(self.endpoints)
        first = next(iter(self.endpoints), None)
        self.auth = shared.load_auth(options, where, first)
        urls = shared.configured_urls(options, (opt.dest for opt in backend_options()), where)
        self.session = shared.identity_session(client, self.auth, urls, KeystoneSession)

    def close(self) -> None:
        self.session.session.close()

    def identity(self, context: Any) -> Identity:
        """:raises NotAuthorized: the context has no token. ConfigError: no credentials here."""
        if context is not None:
            return _Caller(self, context)
        if self.auth is None:
            raise ConfigError(
                f"{self.where} has no credentials for the service itself",
                hint="set OS_CLOUD, or the OS_* variables of your cloud"
                if self._personal
                else "set auth_type, auth_url and the credentials, or pass a context with a token",
            )
        return _Service(self)

    def catalogue_url(self) -> str:
        """The URL of the catalogue for a token."""
        base = str(self.options.get("auth_url") or "").rstrip("/")
        if not base:
            raise ConfigError(
                f"{self.where}: cannot find the image service",
                hint="set endpoint, or auth_url",
            )
        root = base.rpartition("/")[0] if base.rpartition("/")[2] in ("v3", "v2.0") else base
        return f"{root}/v3/auth/catalog"

    def endpoint_in(self, catalogue: Any) -> str:
        """The image service's prefix in a catalogue of Keystone or of a context.

        :raises ConfigError: it has none that matches the options.
        """
        with self.translated():
            entries = catalogue if isinstance(catalogue, list) else []
            points = [point for entry in entries for point in entry.get("endpoints") or ()]
            newer = any("interface" in point for point in points)
            kind = service_catalog.ServiceCatalogV3 if newer else service_catalog.ServiceCatalogV2
            return self.prefix(kind(entries).url_for(**self.filter()))

    def translated(self) -> AbstractContextManager[None]:
        return shared.translated(self.where, "image service", "endpoint", self._login)

    def filter(self) -> dict[str, Any]:
        """The search terms for the entry in a catalogue."""
        return {
            "service_type": self.options.get("service_type") or "image",
            "service_name": self.options.get("service_name"),
            "region_name": self.options.get("region_name"),
            "interface": interfaces(self.options),
        }

    def prefix(self, url: object) -> str:
        """A catalogue's URL without a version, ending in `/`."""
        parts = urlsplit(url) if isinstance(url, str) else urlsplit("")
        odd = parts.username or parts.password or parts.query or parts.fragment
        if parts.scheme not in ("http", "https") or not parts.hostname or odd:
            raise ConfigError(
                f"{self.where}: the catalogue has an invalid URL for the image service: {url!r}",
                hint="set endpoint",
            )
        path = re.sub(r"/v[12](\.\d+)?\Z", "", parts.path.rstrip("/"))
        return f"{origin(url)}{path}/" if isinstance(url, str) else ""


class _Service(Identity):
    """The configured identity of the service."""

    def __init__(self, keystone: Keystone) -> None:
        super().__init__(keystone.conceal)
        self._keystone = keystone

    def _proof(self) -> dict[str, str]:
        keystone = self._keystone
        with keystone.translated():
            found = keystone.auth.get_headers(keystone.session)
        if not found:
            raise NotAuthorized(
                f"{keystone.where}: cannot get a token for the service",
                hint="check the auth options",
            )
        return dict(found)

    def renew(self) -> bool:
        return bool(self._keystone.auth.invalidate())

    def servers(self) -> list[str]:
        keystone = self._keystone
        if keystone.endpoints:
            return list(keystone.endpoints)
        with keystone.translated():
            found = keystone.auth.get_endpoint(
                keystone.session, skip_discovery=True, **keystone.filter()
            )
            return [keystone.prefix(found)]


class _Caller(Identity):
    """A caller of the service, with their own token, never with the service's instead."""

    def __init__(self, keystone: Keystone, context: Any) -> None:
        super().__init__(keystone.conceal)
        token = getattr(context, "auth_token", None)
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise NotAuthorized(
                "the caller's context has no valid token",
                hint="pass a context with auth_token, or None for the service's own identity",
            )
        self._keystone = keystone
        self._token = token
        self._catalogue = getattr(context, "service_catalog", None)
        request_id = str(getattr(context, "global_id", None) or "")
        self.request_id = request_id if _REQUEST_ID.fullmatch(request_id) else None
        self._found: list[str] = []
        self._with_service = bool(keystone.options.get("send_service_user_token"))
        self._may_outlive = False

    def _proof(self) -> dict[str, str]:
        headers = {"X-Auth-Token": self._token}
        if self._with_service:
            with self._keystone.session.on_behalf_of(self.request_id):
                service = self._keystone.identity(None).get_headers()
            headers["X-Service-Token"] = service.get("X-Auth-Token", "")
        return headers

    def outlive(self) -> None:
        self._may_outlive = self._keystone.auth is not None

    def renew(self) -> bool:
        """Together with a service token, an expired token of the caller is still accepted."""
        if not self._may_outlive or self._with_service:
            return False
        self._with_service = True
        return True

    def servers(self) -> list[str]:
        if self._keystone.endpoints:
            return list(self._keystone.endpoints)
        if not self._found:
            catalogue = self._catalogue or self._read_catalogue()
            self._found = [self._keystone.endpoint_in(catalogue)]
        return self._found

    def _read_catalogue(self) -> Any:
        url, keystone = self._keystone.catalogue_url(), self._keystone
        headers = {"X-Auth-Token": self._token, "Accept": "application/json"}
        with keystone.translated(), keystone.session.on_behalf_of(self.request_id):
            response = keystone.session.get(
                url, headers=headers, authenticated=False, raise_exc=False, log=False
            )
        status = response.status_code
        if status in (401, 403):
            raise NotAuthorized("Keystone refuses the caller's token", hint="get a new token")
        if status != 200:
            raise BackendError(
                f"{origin(url)}: Keystone answered {status} to a request for the catalogue",
                hint="check auth_url, or set endpoint",
                retryable=status >= 500,
            )
        return record.parse_json(response.content, url).get("catalog")
