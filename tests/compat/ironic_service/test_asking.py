"""How long an unresponsive web server may keep a conductor, and which servers are told secrets."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from oslo_config import cfg
from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.compat.ironic_options import asking, asking_broker_of
from imagebroker.config.settings import Settings
from tests.compat.ironic_service.conftest import Ironic
from tests.compat.nova_process import PATIENCE
from tests.compat.service_process import ServiceError
from tests.servers.images import random_file
from tests.servers.nginx import Nginx
from tests.servers.tcp import Fault, TcpProxy

FAILED = "ironic.common.exception.ImageRefValidationFailed"


def login(nginx: Nginx, more: str) -> str:
    """Lines of an ironic.conf with the credentials of `nginx`."""
    return (
        "[deploy]\nimage_server_auth_strategy = http_basic\n"
        f"image_server_user = {nginx.user}\nimage_server_password = {nginx.password}\n{more}\n"
    )


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("image_server_auth_hosts = images.example.org, 127.0.0.1", True),
        ("image_server_auth_hosts = .0.0.1", True),
        ("image_server_auth_hosts = images.example.org, .example.com, 0.0.1", False),
        ("image_server_auth_permit_unknown_hosts = false", False),
        ("image_server_auth_permit_unknown_hosts = true", True),
        ("image_server_auth_permit_unknown_hosts = false\nimage_server_auth_hosts = 127.0.0.1",
         True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("api", ["ironic", "ours"])
def test_the_password_of_the_configuration_is_for_the_servers_that_ironic_may_tell(
    one_ironic: Ironic, nginx: Nginx, tmp_path: Path, api: str, more: str, told: bool
) -> None:
    one_ironic.use(login(nginx, more))
    name = f"{tmp_path.name}.img"
    random_file(nginx.root / name, 1000)
    href = nginx.url(name, prefix="private")
    found = []
    for method, arguments in (("show", ()), ("download", (str(tmp_path / "dest"),))):
        try:
            if method == "show":
                one_ironic(api, method, href)
            else:
                one_ironic.download(api, href, Path(*arguments))
            found.append(True)
        except ServiceError as error:
            assert_that(error.kind, Equals(FAILED))
            found.append(False)
    assert_that(found, Equals([told, told]))


@pytest.mark.parametrize("method", ["show", "validate_href"])
def test_a_server_that_does_not_answer_is_not_waited_for_as_long_as_in_a_download(
    one_ironic: Ironic, nginx: Nginx, method: str
) -> None:
    """Otherwise Ironic's process would not answer in time."""
    one_ironic.use(
        default=f"webserver_verify_timeout = 1\nwebserver_connection_timeout = {2 * PATIENCE:.0f}"
    )
    parts = urlsplit(nginx.url("image"))
    with TcpProxy(str(parts.hostname), parts.port or 80, Fault(stall_after=0)) as proxy:
        href = f"http://{proxy.host}:{proxy.port}/image"
        theirs, ours = one_ironic.both(method, href)
    assert_that((theirs, ours), Equals((FAILED, FAILED)))


def test_a_stock_configuration_gives_a_server_five_seconds(tmp_path: Path) -> None:
    path = tmp_path / "ironic.conf"
    path.write_text("[DEFAULT]\nmy_ip = 127.0.0.1\n[imagebroker]\nretries = 2\n")
    conf = cfg.ConfigOpts()
    conf([], project="ironic", default_config_files=[str(path)], default_config_dirs=[])
    with asking_broker_of(conf) as broker:
        assert_that(broker.resolve("https://images.example.org/x").backend, Equals("http"))
    core = Settings(conf, inherited=lambda: asking(conf)).core
    assert_that((core.connect_timeout, core.stall_timeout, core.retries), Equals((5.0, 5.0, 2)))
