"""A nova.conf in which nothing is ours: what each of Nova's options becomes, and that it works."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from oslo_config import cfg
from testtools.assertions import assert_that
from testtools.matchers import Contains, ContainsDict, Equals, HasLength, Is, Not

from imagebroker.compat.nova import API
from imagebroker.compat.nova_options import broker_of, inherited
from imagebroker.config.settings import Settings
from imagebroker.exceptions import SchemeNotEnabled
from tests.cli.conftest import Shell
from tests.compat.nova_process import NovaProcess, missing
from tests.servers.fixtures import require
from tests.servers.openstack import OpenStack

pytestmark = pytest.mark.promise("nova-conf")

#: What stands in the nova.conf of a compute node, as Nova's installation guide prints it.
STOCK = """[DEFAULT]
transport_url = rabbit://openstack:s3cret@controller
[api]
auth_strategy = keystone
[keystone_authtoken]
auth_url = http://controller:5000/
username = nova
password = s3cret
[vnc]
enabled = true
[glance]
{glance}
[oslo_concurrency]
lock_path = /var/lib/nova/tmp
[placement]
region_name = RegionOne
password = s3cret
[service_user]
{service}
"""
LOGIN = """auth_url = https://controller/identity
auth_strategy = keystone
auth_type = password
project_domain_name = Default
project_name = service
user_domain_name = Default
username = nova
password = s3cret"""

Parsed = Callable[..., cfg.ConfigOpts]


@pytest.fixture
def parsed(tmp_path: Path) -> Parsed:
    """A nova.conf with these lines, read without Nova."""

    def parse(glance: str = "", service: str = "") -> cfg.ConfigOpts:
        path = tmp_path / "nova.conf"
        path.write_text(STOCK.format(glance=glance, service=service))
        conf = cfg.ConfigOpts()
        conf([], project="nova", default_config_files=[str(path)], default_config_dirs=[])
        return conf

    return parse


@pytest.mark.parametrize(
    ("lines", "section", "expected"),
    [
        ("", "imagebroker", {"enabled_schemes": ["glance"], "default_backend": "glance",
                             "retries": 3, "verify_signatures": False,
                             "enable_certificate_validation": False}),
        ("num_retries = 0", "imagebroker", {"retries": 0}),
        ("api_servers = http://a:9292, b:9292/v2/", "backend:glance",
         {"endpoint": ["http://a:9292/", "http://b:9292/"]}),
        ("", "backend:glance", {"valid_interfaces": ["internal", "public"]}),
        ("valid_interfaces = public", "backend:glance", {"valid_interfaces": ["public"]}),
        ("endpoint_override = https://c/image", "backend:glance",
         {"endpoint": ["https://c/image/"]}),
        ("region_name = one\nservice_type = img", "backend:glance",
         {"region_name": "one", "service_type": "img"}),
        ("cafile = /etc/ca.pem\ncertfile = /c\nkeyfile = /k\ntimeout = 7", "backend:glance",
         {"cafile": "/etc/ca.pem", "certfile": "/c", "keyfile": "/k", "timeout": "7"}),
        ("insecure = true", "backend:glance", {"insecure": True, "allow_insecure": True}),
        ("api_insecure = true", "backend:glance", {"insecure": True, "allow_insecure": True}),
        ("verify_glance_signatures = true\nenable_certificate_validation = true\n"
         "default_trusted_certificate_ids = a,b", "imagebroker",
         {"verify_signatures": True, "enable_certificate_validation": True,
          "trusted_certificate_ids": ["a", "b"]}),
    ],
)  # fmt: skip
def test_what_stands_in_its_glance_section_is_understood(
    parsed: Parsed, lines: str, section: str, expected: dict[str, Any]
) -> None:
    found = inherited(parsed(lines))[section]
    assert_that(found, ContainsDict({name: Equals(value) for name, value in expected.items()}))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("api_servers = http://a:9292, b:9292", "http://a:9292/images/x"),
        ("endpoint_override = https://c/image/v2", "https://c/image/images/x"),
        ("", "x"),
    ],
)
def test_the_url_of_an_image_of_a_caller_without_a_catalogue_is_of_the_first_configured_server(
    parsed: Parsed, lines: str, expected: str
) -> None:
    url = API.on(parsed(lines)).generate_image_url
    assert_that(url("x", SimpleNamespace(service_catalog=[])), Equals(expected))  # type: ignore[arg-type]
    catalogue = [{"type": "image", "endpoints": [{"publicURL": "http://public"}]}]
    own = SimpleNamespace(service_catalog=catalogue)
    assert_that(url("x", own), Equals("http://public/v2/images/x"))  # type: ignore[arg-type]


def test_the_services_own_login_is_that_of_service_user(parsed: Parsed) -> None:
    found = inherited(parsed("", f"send_service_user_token = true\n{LOGIN}"))["backend:glance"]
    expected = {"send_service_user_token": True, "auth_type": "password", "username": "nova",
                "auth_url": "https://controller/identity"}  # fmt: skip
    assert_that(found, ContainsDict({name: Equals(value) for name, value in expected.items()}))
    found = inherited(parsed("", LOGIN))["backend:glance"]
    assert_that(set(found) & set(expected), HasLength(0))


class TestRbd:
    LINES = (
        "enable_rbd_download = true\nrbd_user = glance\nrbd_pool = images\n"
        "rbd_ceph_conf = /etc/ceph/two.conf"
    )

    def test_where_cephs_bindings_are_installed_locations_are_read_with_it(
        self, parsed: Parsed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("rados", "rbd"):
            monkeypatch.setitem(sys.modules, name, module_from_spec(ModuleSpec(name, None)))
        found = inherited(parsed(self.LINES))
        assert_that(found["imagebroker"]["enabled_schemes"], Equals(["glance", "rbd"]))
        assert_that(found["imagebroker"]["direct_url_schemes"], Equals(["rbd"]))
        assert_that(
            found["backend:rbd"],
            Equals({"user": "glance", "pool": "images", "ceph_conf": "/etc/ceph/two.conf",
                    "mon_timeout": 5}),
        )  # fmt: skip

    def test_where_they_are_not_it_is_said_and_glance_is_asked(
        self, parsed: Parsed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("rados", "rbd"):
            monkeypatch.setitem(sys.modules, name, None)
        conf = parsed(self.LINES + "\napi_servers = http://127.0.0.1:9/")
        with broker_of(conf) as broker, pytest.raises(SchemeNotEnabled):
            broker.resolve("rbd://pool/image")
        assert_that(caplog.text, Contains("python3-rbd"))


def test_a_section_of_ours_counts_more(parsed: Parsed, tmp_path: Path) -> None:
    conf = parsed("num_retries = 1\napi_servers = http://127.0.0.1:9/\n"
                  "[imagebroker]\nretries = 7\nenabled_schemes = glance, https")  # fmt: skip
    settings = Settings(conf, inherited=lambda: inherited(conf))
    assert_that(settings.core.retries, Equals(7))
    assert_that(settings.again().core.retries, Equals(7))
    with broker_of(conf) as broker:
        assert_that(broker.resolve("https://example.org/x").backend, Equals("http"))
        broker.reload()
        assert_that(
            broker.resolve("00000000-0000-4000-8000-000000000000").backend, Equals("glance")
        )


def test_check_says_what_each_option_became(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    path = shell.config(STOCK.format(
        glance="num_retries = 5\ndebug = true\nendpoint_override = https://127.0.0.1:9/\n"
        "rbd_user = glance\ndefault_trusted_certificate_ids = a",
        service=f"send_service_user_token = true\n{LOGIN}",
    ))  # fmt: skip
    path.chmod(0o600)
    said = shell.run("check", "--offline").stderr
    for line in (
        "[glance] num_retries: becomes [imagebroker] retries = 5",
        "[glance] endpoint_override: becomes [backend:glance] endpoint = https://127.0.0.1:9/",
        "[glance] debug: has no effect: set the level of the logger",
        "[glance] rbd_user: has no effect: enable_rbd_download is off",
        "[glance] default_trusted_certificate_ids: becomes [imagebroker] trusted_certificate_ids",
        "[service_user] password: becomes [backend:glance] password",
    ):
        assert_that(said, Contains(line))
    assert_that(said, Not(Contains("s3cret")))


def test_nova_works_with_a_stock_nova_conf_that_names_no_server(
    openstack: OpenStack, tmp_path: Path
) -> None:
    """The endpoint is that of the caller's catalogue. One assignment in Nova, no line of ours."""
    require(missing())
    options = openstack.auth_options("admin") | {"send_service_user_token": "true"}
    service = "\n".join(f"{name} = {value}" for name, value in options.items())
    config = tmp_path / "nova.conf"
    config.write_text(STOCK.format(glance="valid_interfaces = public", service=service))
    data = b"x" * 100_000
    image = openstack.create_image(data)
    context = {
        "token": openstack.token("red"), "user": openstack.user_ids["red"],
        "project": openstack.project_ids[openstack.users["red"].project],
    }  # fmt: skip
    with NovaProcess(tmp_path) as nova:
        used = nova("use_its_own", config=str(config), folder=str(tmp_path))
        assert_that(used, Equals("imagebroker.compat.nova"))
        nova("fetch", context=context, image=image, path=str(tmp_path / "disk"))
        record = nova("call", api="ours", method="get", context=context, args=[image], kwargs={})
        deleted = nova("call", api="ours", method="delete", context=context, args=[image],
                       kwargs={})  # fmt: skip
    digest = hashlib.sha512((tmp_path / "disk").read_bytes()).hexdigest()
    assert_that(digest, Equals(hashlib.sha512(data).hexdigest()))
    assert_that(record["os_hash_value"], Equals(digest))
    assert_that(deleted, Is(True))
