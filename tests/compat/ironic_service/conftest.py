"""Ironic's code in a process, with its own image services and ours, at real servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.compat.service_process import ServiceError, ServiceProcess, missing_service
from tests.servers.fixtures import require
from tests.servers.openstack import OpenStack

MISSING = "00000000-0000-4000-8000-000000000000"
#: An ironic.conf as Ironic's installation guide prints it.
STOCK = """[DEFAULT]
my_ip = 127.0.0.1
transport_url = rabbit://RPC_USER:RPC_PASSWORD@RPC_HOST:5672/
{default}
[database]
connection = mysql+pymysql://ironic:IRONIC_DBPASSWORD@DB_IP/ironic?charset=utf8
[glance]
auth_type = password
auth_url = {auth_url}
username = {username}
password = {password}
project_name = {project_name}
project_domain_id = default
user_domain_id = default
region_name = {region}
valid_interfaces = public
swift_endpoint_url = https://swift.example.org
swift_account = AUTH_glance
swift_temp_url_key = a-key-for-urls
swift_container = glance
[swift]
auth_type = none
endpoint_override = http://127.0.0.1:9/v1/AUTH_glance
[conductor]
file_url_allowed_paths = {files}
"""


class Ironic:
    """Ironic's code in a process."""

    def __init__(self, process: ServiceProcess, openstack: OpenStack, folder: Path) -> None:
        self.process = process
        self.openstack = openstack
        self.files = folder / "files"
        self.files.mkdir(exist_ok=True)
        self._config = folder / "ironic.conf"
        self._tokens: dict[str, str] = {}

    def use(self, more: str = "", default: str = "") -> Any:
        """Read a configuration; the schemes that are enabled."""
        options = self.openstack.auth_options("red")
        stock = STOCK.format(
            **options, region=self.openstack.region, files=self.files, default=default
        )
        self._config.write_text(stock + more)
        return self.process("use", config=str(self._config))

    def context(self, user: str | None) -> dict[str, Any] | None:
        if user is None:
            return None
        if user not in self._tokens:
            self._tokens[user] = self.openstack.token(user)
        return {
            "token": self._tokens[user],
            "user": self.openstack.user_ids[user],
            "project": self.openstack.project_ids[self.openstack.users[user].project],
        }

    def __call__(
        self, api: str, method: str, href: str, *args: Any, user: str | None = None
    ) -> Any:
        """A method of the service of `ironic` or `ours` for an href."""
        return self.process(
            "call", api=api, method=method, href=href, context=self.context(user), args=list(args)
        )

    def both(self, method: str, href: str, *args: Any, user: str | None = None) -> list[Any]:
        """What both return, or the classes of what they raise."""
        found: list[Any] = []
        for api in ("ironic", "ours"):
            try:
                found.append(self(api, method, href, *args, user=user))
            except ServiceError as error:
                found.append(error.kind)
        return found

    def refused(self, api: str, href: str, path: Path, **more: Any) -> str:
        """The class of what a download raises."""
        with pytest.raises(ServiceError) as caught:
            self.download(api, href, path, **more)
        return caught.value.kind

    def download(
        self, api: str, href: str, path: Path, user: str | None = None, **more: Any
    ) -> Any:
        return self.process(
            "download", api=api, href=href, path=str(path), context=self.context(user), **more
        )


@pytest.fixture(scope="session")
def one_ironic(openstack: OpenStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ironic]:
    require(missing_service("ironic"))
    folder = tmp_path_factory.mktemp("ironic")
    with ServiceProcess("ironic", folder) as process:
        ironic = Ironic(process, openstack, folder)
        ironic.use()
        yield ironic


@pytest.fixture
def ironic(one_ironic: Ironic) -> Ironic:
    one_ironic.use()
    return one_ironic
