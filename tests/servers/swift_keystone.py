"""Swift with Keystone's tokens and its own API only, beside the Keystone of `OpenStack`."""

from __future__ import annotations

from typing import Any

import requests

from tests.servers.openstack import OpenStack
from tests.servers.openstack_service import call
from tests.servers.process import HOST
from tests.servers.swift import Swift, SwiftUser

_MIDDLEWARE = "paste.filter_factory = keystonemiddleware.auth_token:filter_factory"


class SwiftWithKeystone(Swift):
    """Members of a project own its account. It is in the catalogue while it runs."""

    def __init__(self, openstack: OpenStack) -> None:
        super().__init__()
        self._openstack = openstack
        self._admin = {"X-Auth-Token": openstack.token("admin")}
        self._service: str | None = None

    def _attempt(self) -> None:
        super()._attempt()
        self._service = self._make("service", name="swift", type="object-store")
        url = f"http://{HOST}:{self.port}/v1/AUTH_$(project_id)s"
        for interface in ("public", "internal", "admin"):
            self._make(
                "endpoint", url=url, interface=interface, service_id=self._service,
                region_id=self._openstack.region,
            )  # fmt: skip

    def _make(self, kind: str, **fields: object) -> str:
        url = f"{self._openstack.auth_url}/{kind}s"
        return str(call("POST", url, {kind: fields}, self._admin)[kind]["id"])

    def _end(self) -> None:
        if self._service is not None:
            url = f"{self._openstack.auth_url}/services/{self._service}"
            call("DELETE", url, headers=self._admin)
            self._service = None
        super()._end()

    def swift_options(self, **others: Any) -> dict[str, Any]:
        return {**self._openstack.auth_options("red"), **others}

    def user(self, name: str = "red", key: str = "") -> SwiftUser:
        found = self._openstack
        account = (
            f"http://{HOST}:{self.port}/v1/AUTH_{found.project_ids[found.users[name].project]}"
        )
        return SwiftUser(account, found.token(name))

    @property
    def _filters(self) -> dict[str, str]:
        filters: dict[str, str] = {}
        for name, egg in super()._filters.items():
            if name == "tempauth":
                filters |= {"authtoken": _MIDDLEWARE, "keystoneauth": "keystoneauth"}
            elif name != "s3api":
                filters[name] = egg
        return filters

    def _own_options(self) -> dict[str, str]:
        options = self._openstack.auth_options("glance")
        lines = "".join(f"{name} = {value}\n" for name, value in options.items())
        authtoken = (
            f"{lines}www_authenticate_uri = {self._openstack.auth_url}\n"
            "delay_auth_decision = true\ncache = swift.cache\n"
            "interface = public\nservice_token_roles_required = true\n"
        )
        keystoneauth = "operator_roles = admin, member\nreader_roles = reader\n"
        return super()._own_options() | {"authtoken": authtoken, "keystoneauth": keystoneauth}

    def _try(self) -> None:
        requests.get(f"{self.url}/healthcheck", timeout=5).raise_for_status()
