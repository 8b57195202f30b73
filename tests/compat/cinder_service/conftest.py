"""Cinder's code in a process, with its own image service and ours, both at a real Glance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compat.service_process import ServiceProcess, missing_service
from tests.servers.fixtures import require
from tests.servers.openstack import OpenStack

MISSING = "00000000-0000-4000-8000-000000000000"
#: A cinder.conf as Cinder's installation guide prints it.
STOCK = """[database]
connection = mysql+pymysql://cinder:CINDER_DBPASS@controller/cinder
[DEFAULT]
transport_url = rabbit://openstack:RABBIT_PASS@controller
auth_strategy = keystone
my_ip = 10.0.0.41
enabled_backends = lvm
{servers}
[keystone_authtoken]
www_authenticate_uri = {auth_url}
auth_url = {auth_url}
memcached_servers = controller:11211
auth_type = password
project_domain_name = default
user_domain_name = default
project_name = service
username = cinder
password = CINDER_PASS
[lvm]
volume_driver = cinder.volume.drivers.lvm.LVMVolumeDriver
volume_group = cinder-volumes
target_protocol = iscsi
target_helper = tgtadm
[oslo_concurrency]
lock_path = /var/lib/cinder/tmp
"""


class Cinder:
    """Cinder's code in a process, and the Glance that it speaks to."""

    def __init__(self, process: ServiceProcess, openstack: OpenStack, folder: Path) -> None:
        self.process = process
        self.openstack = openstack
        self._config = folder / "cinder.conf"
        self._tokens: dict[str, str] = {}

    def use(self, endpoint: str, more: str = "") -> Any:
        """Both speak to the Glance at `endpoint`."""
        servers = f"glance_api_servers = {endpoint}" if endpoint else ""
        stock = STOCK.format(servers=servers, auth_url=self.openstack.auth_url)
        self._config.write_text(stock + more)
        return self.process("use", config=str(self._config))

    def context(self, user: str, token: str | None = None) -> dict[str, Any]:
        if user not in self._tokens:
            self._tokens[user] = self.openstack.token(user)
        return {
            "token": token or self._tokens[user],
            "user": self.openstack.user_ids[user],
            "project": self.openstack.project_ids[self.openstack.users[user].project],
            "is_admin": user == "admin",
        }

    def __call__(self, api: str, method: str, *args: Any, user: str = "red", **kwargs: Any) -> Any:
        """A method of `cinder` or `ours`; `user="nobody"` has a token that no Keystone made."""
        context = self.context("red", "made-up") if user == "nobody" else self.context(user)
        return self.process(
            "call", api=api, method=method, context=context, args=list(args), kwargs=kwargs
        )

    def do(self, what: str, **arguments: Any) -> Any:
        return self.process(what, context=self.context("red"), **arguments)


@pytest.fixture(scope="module")
def one_cinder(openstack: OpenStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cinder]:
    require(missing_service("cinder"))
    folder = tmp_path_factory.mktemp("cinder")
    with ServiceProcess("cinder", folder, ["threading"]) as process:
        yield Cinder(process, openstack, folder)


@pytest.fixture
def cinder(one_cinder: Cinder) -> Cinder:
    one_cinder.use(one_cinder.openstack.endpoint)
    return one_cinder


@pytest.fixture(scope="module", params=["threading", "eventlet"])
def concurrent_cinder(
    request: pytest.FixtureRequest, openstack: OpenStack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cinder]:
    """Cinder with native threads and with green ones."""
    require(missing_service("cinder"))
    folder = tmp_path_factory.mktemp("cinder")
    with ServiceProcess("cinder", folder, [request.param]) as process:
        cinder = Cinder(process, openstack, folder)
        cinder.use(openstack.endpoint)
        yield cinder
