"""Keystone and Glance, the real ones, on databases that are prepared once."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.servers import openstack_files
from tests.servers.openstack_prepared import (
    REGION,
    USERS,
    User,
    open_database,
    prepared_databases,
)
from tests.servers.openstack_service import (
    Service,
    call,
    environment,
    start_keystone,
    token,
    url_of,
)
from tests.servers.process import HOST, Server


def missing() -> str | None:
    """Return what to install, or None."""
    if os.environ.get("IMAGEBROKER_WITHOUT_OPENSTACK") == "1":
        return "IMAGEBROKER_WITHOUT_OPENSTACK is set"
    if not (environment() / "versions").exists():
        return f"Glance and Keystone are not in {environment()}: run tests/install-servers"
    return None


class OpenStack(Server):
    """Keystone and Glance with three stores (``fast``, the default, ``slow``, and ``web``).

    ``users`` maps names to User: admin; red and blue, members of the projects of these names;
    reader (in red); service; glance.
    """

    region = REGION
    users: Mapping[str, User] = USERS
    auth_url: str
    #: Glance, without ``/v2``.
    endpoint: str
    #: The files of the store ``fast``, each named like its image.
    store_dir: Path
    stores: Path
    #: Project and user ids by name.
    project_ids: Mapping[str, str]
    user_ids: Mapping[str, str]

    def __init__(self, *, token_seconds: int = 3600, directory: Path | None = None) -> None:
        super().__init__(directory)
        self._token_seconds = token_seconds
        self._services: dict[str, Service] = {}
        self._tokens: dict[str, tuple[float, str]] = {}
        self._asking = threading.Lock()
        self._further: dict[str, str] = {}

    def auth_options(self, user: str) -> dict[str, str]:
        """Return keystoneauth's password options for a user."""
        return {
            "auth_type": "password",
            "auth_url": self.auth_url,
            "username": user,
            "password": USERS[user].password,
            "project_name": USERS[user].project,
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        }

    def token(self, user: str) -> str:
        """Return a new token for a user, in the user's project."""
        who = USERS[user]
        return token(self.auth_url, who.name, who.password, who.project)

    def revoke(self, token: str) -> None:
        """Make Keystone refuse a token. Glance may still trust it for 300 s."""
        headers = {"X-Auth-Token": self.token("admin"), "X-Subject-Token": token}
        call("DELETE", f"{self.auth_url}/auth/tokens", headers=headers)

    def call(self, user: str, method: str, path: str, body: bytes | object = None) -> Any:
        """Ask Glance as a user; return the JSON, bytes or None of the answer.

        ``path`` follows ``/v2``, or is a whole URL. Bytes are sent as image data, other bodies as
        JSON, those of PATCH as a patch of an image.

        :raises AssertionError: unless the status is a 2xx.
        """
        url = path if path.startswith("http:") else f"{self.endpoint}/v2{path}"
        return call(method, url, body, {"X-Auth-Token": self._kept_token(user)})

    def _kept_token(self, user: str) -> str:
        with self._asking:
            made, kept = self._tokens.get(user, (-math.inf, ""))
            if time.monotonic() - made > self._token_seconds / 2:
                made, kept = time.monotonic(), self.token(user)
                # Both services load their policies at the first request, and answer 401 to others
                # that come meanwhile.
                url = f"{self.endpoint}/v2/images?limit=1"
                call("GET", url, headers={"X-Auth-Token": kept})
                self._tokens[user] = made, kept
            return kept

    def create_image(self, data: bytes | None, user: str = "red", **fields: object) -> str:
        """Create a raw, bare image; upload the data unless that is None; return the id."""
        record = {"name": "test", "disk_format": "raw", "container_format": "bare"}
        image_id = str(self.call(user, "POST", "/images", {**record, **fields})["id"])
        if data is not None:
            self.call(user, "PUT", f"/images/{image_id}/file", data)
        return image_id

    def stored_file(self, image_id: str, store: str = "fast") -> Path:
        """Return where Glance keeps the image's bytes, to damage or to remove them."""
        return self.stores / store / image_id

    def locations_endpoint(self) -> str:
        """Return a second Glance on the same images that shows, takes and removes locations.

        It is started at the first call.
        """
        return self._further_glance("glance-locations")

    def ceph_endpoint(self, options: str, modules: str) -> str:
        """Return a Glance on the same images that shows locations, and stores new ones in Ceph.

        ``options``: of its store; ``modules``: the folder with Ceph's, for the Python of the servers.
        Remove what is stored there: the others know no such store.
        """
        return self._further_glance("glance-ceph", options, modules)

    def _further_glance(self, name: str, ceph: str = "", modules: str = "") -> str:
        if name not in self._further:
            listener = socket.create_server((HOST, 0))
            self._further[name] = url_of(listener)
            self._start_glance(name, listener, show_locations=True, ceph=ceph, modules=modules)
            self._services[name].wait("/healthcheck")
        return self._further[name]

    def log(self, service: str = "glance") -> Path:
        """Return the log of ``keystone``, ``glance``, ``glance-locations`` or ``glance-ceph``."""
        return self.directory / service / "log"

    def _start(self) -> None:
        prepared = prepared_databases()
        with contextlib.ExitStack() as stack:
            keystone_listener, glance_listener = (
                stack.enter_context(socket.create_server((HOST, 0), backlog=128)) for _ in "12"
            )
            self.auth_url = url_of(keystone_listener) + "/v3"
            self.endpoint = url_of(glance_listener)
            self._copy(prepared)
            self._services["keystone"] = start_keystone(
                self.directory / "keystone", keystone_listener, self._token_seconds
            )
            self._start_glance("glance", glance_listener, show_locations=False)
        self._services["keystone"].wait("/v3")
        self._services["glance"].wait("/healthcheck")

    def _copy(self, prepared: Path) -> None:
        shutil.copytree(prepared, self.directory, dirs_exist_ok=True)
        ids = json.loads((self.directory / "ids.json").read_text())
        self.project_ids, self.user_ids = ids["projects"], ids["users"]
        self.stores = self.directory / "stores"
        self.store_dir = self.stores / "fast"
        for store in ("fast", "slow"):
            (self.stores / store).mkdir(parents=True, exist_ok=True)
        with open_database(self.directory / "keystone" / "keystone.db") as database:
            # The catalogue: the ports are new at every start.
            for kind, url in {"identity": self.auth_url, "image": self.endpoint}.items():
                database.execute(
                    "UPDATE endpoint SET url = ? WHERE service_id ="
                    " (SELECT id FROM service WHERE type = ?)",
                    (url, kind),
                )

    def _start_glance(
        self,
        name: str,
        listener: socket.socket,
        *,
        show_locations: bool,
        ceph: str = "",
        modules: str = "",
    ) -> None:
        directory = self.directory / name
        for folder in ("staging", "tasks"):
            (directory / folder).mkdir(parents=True, exist_ok=True)
        configuration = openstack_files.glance(
            directory,
            database=self.directory / "glance" / "glance.db",
            stores=self.stores,
            paste=environment() / "etc" / "glance" / "glance-api-paste.ini",
            own_url=url_of(listener),
            auth_url=self.auth_url,
            password=USERS["glance"].password,
            show_locations=show_locations,
            ceph=ceph,
        )
        (directory / "glance-api.conf").write_text(configuration)
        (directory / "fast.json").write_text(json.dumps(openstack_files.SHARE))
        self._services[name] = Service("glance.wsgi.api:application", directory, listener, modules)

    def _stop(self) -> None:
        for service in self._services.values():
            service.process.stop(0)  # nobody needs its databases any more
