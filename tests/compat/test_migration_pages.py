"""What the pages about migration tell a deployer to write is all that a stock deployment needs."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, HasLength, MatchesRegex

from tests.cli.conftest import Shell
from tests.compat.cinder_service.conftest import STOCK as CINDER
from tests.compat.ironic_service.conftest import STOCK as IRONIC
from tests.compat.nova_process import missing, nova_environment, working_tree
from tests.compat.service_process import environment_of, missing_service
from tests.compat.test_nova_conf import STOCK as NOVA
from tests.servers.fixtures import require
from tests.servers.images import random_file
from tests.servers.openstack import OpenStack

pytestmark = pytest.mark.promise("nova-conf", "ironic", "cinder")

PAGES = Path(__file__).parents[2] / "docs"
_CODE = re.compile(r"<!-- not run: it needs \w+ -->\n```python\n(.*?)```", re.DOTALL)
_READ = """
import json, sys
given = json.loads(sys.argv[1])
"""


@dataclass(frozen=True)
class Service:
    """A service as its installation guide configures it, and how it fetches an image."""

    #: Its config file, given the Keystone and Glance and a folder for files.
    config: Callable[[OpenStack, Path], str]
    read: str
    #: The service's own code, which downloads an image to a path.
    fetch: str


def _lines(options: dict[str, str]) -> str:
    return "\n".join(f"{name} = {value}" for name, value in options.items())


def _nova(openstack: OpenStack, files: Path) -> str:
    login = openstack.auth_options("admin") | {"send_service_user_token": "true"}
    return NOVA.format(glance=f"api_servers = {openstack.endpoint}", service=_lines(login))


def _cinder(openstack: OpenStack, files: Path) -> str:
    servers = f"glance_api_servers = {openstack.endpoint}"
    return CINDER.format(servers=servers, auth_url=openstack.auth_url)


def _ironic(openstack: OpenStack, files: Path) -> str:
    options = openstack.auth_options("red")
    return IRONIC.format(**options, region=openstack.region, files=files, default="")


SERVICES = {
    "nova": Service(
        _nova,
        "nova.conf.CONF([], project='nova', default_config_files=[given['config']],"
        " default_config_dirs=[])",
        """
import nova.context, nova.virt.images
context = nova.context.RequestContext(**given['context'])
nova.virt.images.fetch(context, given['image'], given['path'])
used = nova.virt.images.IMAGE_API
""",
    ),
    "cinder": Service(
        _cinder,
        "from cinder.common import config as read\n"
        "read.CONF([], project='cinder', default_config_files=[given['config']],"
        " default_config_dirs=[])",
        """
import cinder.context
context, used = cinder.context.RequestContext(**given['context']), None
used = cinder.image.glance.get_default_image_service()
cinder.image.image_utils.fetch(context, used, given['image'], given['path'], None, None)
""",
    ),
    "ironic": Service(
        _ironic,
        "from ironic.conf import CONF\n"
        "CONF([], project='ironic', default_config_files=[given['config']],"
        " default_config_dirs=[])",
        """
import ironic.common.context, ironic.common.images
context = ironic.common.context.RequestContext()
ironic.common.images.fetch(context, given['image'], given['path'])
used = ironic.common.image_service.get_image_service(given['image'], context=context)
""",
    ),
}
#: Nova's page assigns before Nova has read its file.
_PAGE_FIRST = frozenset({"nova"})
_SAID = "print(*(each.__module__ for each in type(used).__mro__))"


def program(service: str) -> str:
    """The lines of the page in the service: it reads its file, and fetches an image."""
    found = _CODE.findall((PAGES / f"migrating-from-{service}.md").read_text())
    assert_that(found, HasLength(1))
    own = SERVICES[service]
    order = (found[0], own.read) if service in _PAGE_FIRST else (own.read, found[0])
    return "\n".join((_READ, *order, own.fetch, _SAID))


@pytest.mark.parametrize("service", list(SERVICES))
def test_a_stock_deployment_works_with_the_lines_of_the_page_and_its_own_config_file(
    openstack: OpenStack, tmp_path: Path, service: str
) -> None:
    require(missing() if service == "nova" else missing_service(service))
    config = tmp_path / f"{service}.conf"
    config.write_text(SERVICES[service].config(openstack, tmp_path))
    config.chmod(0o600)
    checked = Shell(tmp_path).run("--config-file", str(config), "check")
    assert_that((checked.status, checked.stdout.decode()), Equals((0, "")), checked.stderr)

    data = random_file(tmp_path / "original", 100_000).read_bytes()
    given: dict[str, Any] = {
        "config": str(config), "image": openstack.create_image(data), "path": str(tmp_path / "disk"),
        "context": {
            "auth_token": openstack.token("red"), "user_id": openstack.user_ids["red"],
            "project_id": openstack.project_ids[openstack.users["red"].project],
        },
    }  # fmt: skip
    place = nova_environment() if service == "nova" else environment_of(service)
    done = subprocess.run(
        [place / "bin" / "python", "-W", "ignore", "-c", program(service), json.dumps(given)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={
            "PATH": f"{place}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(tmp_path),
            "LANG": "C.UTF-8", "PYTHONPATH": str(working_tree(tmp_path / "site")),
        },
    )  # fmt: skip
    assert_that((done.returncode, done.stderr[-3000:] if done.returncode else ""), Equals((0, "")))
    assert_that(done.stdout, MatchesRegex(r"(?s).*\bimagebroker\.compat\."))
    assert_that((tmp_path / "disk").read_bytes() == data, Equals(True))
