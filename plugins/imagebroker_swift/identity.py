"""Keystone's part of the login: its tokens, and the account in its catalogue."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from imagebroker.plugin import (
    BackendError,
    BackendHost,
    ConfigError,
    NotAuthorized,
    Options,
    http,
    keystone,
    peer,
)
from imagebroker_swift.logins import Login, account_url
from imagebroker_swift.options import backend_options


class Keystone:
    """Tokens and catalogues for one instance. It sends nothing before it must."""

    def __init__(self, host: BackendHost, options: Options, client: http.Client) -> None:
        """:raises ConfigError: the auth options do not fit together."""
        self.where = f"[backend:{host.title}]"
        self.host, self.options = host, options
        self._login = keystone.Login.of(options, personal=host.personal)
        self.auth = keystone.load_auth(options, self.where)
        names = (opt.dest for opt in backend_options() if opt.dest != "storage_url")
        urls = keystone.configured_urls(options, names, self.where)
        self.session: Any = keystone.identity_session(client, self.auth, urls)

    def account(self) -> str:
        """The service's own account."""
        with self.translated():
            found = self.auth.get_endpoint(self.session, skip_discovery=True, **self._wanted())
            if found is None:
                raise ConfigError(
                    f"{self.where}: the catalogue has no object store",
                    hint="check region_name, valid_interfaces and service_type, or set storage_url",
                )
        return account_url(found, self.options)

    def account_in(self, catalogue: Any) -> str:
        """The account in a catalogue of a caller."""
        from keystoneauth1.access import service_catalog

        with self.translated():
            entries = catalogue if isinstance(catalogue, list) else []
            points = [point for entry in entries for point in entry.get("endpoints") or ()]
            newer = any("interface" in point for point in points)
            kind = service_catalog.ServiceCatalogV3 if newer else service_catalog.ServiceCatalogV2
            return account_url(kind(entries).url_for(**self._wanted()), self.options)

    def catalogue_for(self, token: str) -> Any:
        """What Keystone shows to whoever has this token."""
        base = str(self.options.get("auth_url") or "").rstrip("/")
        if not base:
            raise ConfigError(
                f"{self.where}: cannot find the account of the caller",
                hint="set storage_url, or auth_url",
            )
        root = base.rpartition("/")[0] if base.rpartition("/")[2] in ("v3", "v2.0") else base
        url = f"{root}/v3/auth/catalog"
        headers = {"X-Auth-Token": token, "Accept": "application/json"}
        with self.translated():
            answer = self.session.get(
                url, headers=headers, authenticated=False, raise_exc=False, log=False
            )
        if answer.status_code in (401, 403):
            raise NotAuthorized("Keystone refuses the caller's token", hint="get a new token")
        if answer.status_code != 200:
            raise BackendError(
                f"{url}: Keystone answered {answer.status_code} to a request for the catalogue",
                hint="check auth_url, or set storage_url",
                retryable=answer.status_code >= 500,
            )
        return peer.document(answer.content, dict, url).get("catalog")

    def translated(self) -> AbstractContextManager[None]:
        return keystone.translated(self.where, "object store", "storage_url", self._login)

    def _wanted(self) -> dict[str, Any]:
        options = self.options
        return {
            "service_type": options.service_type,
            "service_name": options.service_name,
            "region_name": options.region_name,
            "interface": list(options.valid_interfaces or ["public"]),
        }

    def close(self) -> None:
        self.session.session.close()


class KeystoneLogin(Login):
    """The configured identity of the service. keystoneauth keeps its token."""

    def __init__(self, service: Keystone) -> None:
        self._service = service
        self._lock = threading.Lock()

    @property
    def account_url(self) -> str:
        return str(self._service.options.storage_url or "").rstrip("/") or self._service.account()

    def headers(self) -> Mapping[str, str]:
        service = self._service
        with service.translated():
            found = service.auth.get_headers(service.session)
        if not found:
            raise NotAuthorized(
                f"{service.where}: cannot get a token for the service",
                hint="check the auth options",
            )
        service.host.conceal(*found.values())
        return dict(found)

    def renew(self, refused: Mapping[str, str]) -> bool:
        with self._lock:
            if dict(self._service.auth.get_headers(self._service.session) or {}) != dict(refused):
                return True  # another thread has
            return bool(self._service.auth.invalidate())
