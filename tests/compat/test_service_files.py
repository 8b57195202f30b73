"""`imagebroker check` on the config file of a service says what each of its options became."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, Not

from imagebroker.compat.service_files import service_of
from tests.cli.conftest import Done, Shell
from tests.compat.cinder_service.conftest import STOCK as CINDER
from tests.compat.ironic_service.conftest import STOCK as IRONIC

Checked = Callable[..., Done]


@pytest.fixture
def checked(tmp_path: Path) -> Checked:
    """Check a file with these lines, without any server."""
    shell = Shell(tmp_path)

    def run(text: str, name: str) -> Done:
        path = tmp_path / name
        path.write_text(text)
        path.chmod(0o600)
        return shell.run("--config-file", str(path), "check", "--offline")

    return run


def ironic(files: Path, more: str = "", default: str = "") -> str:
    return more + IRONIC.format(
        default=default, auth_url="https://controller/identity", username="glance",
        password="s3cret", project_name="service", region="RegionOne", files=files,
    )  # fmt: skip


def cinder(servers: str, more: str = "") -> str:
    return CINDER.format(servers=servers, auth_url="https://controller/identity") + more


def test_a_stock_ironic_conf_is_understood(checked: Checked, tmp_path: Path) -> None:
    done = checked(ironic(tmp_path), "ironic.conf")
    for line in (
        "[glance] auth_type: becomes [backend:glance] auth_type",
        "[glance] password: becomes [backend:glance] password",
        "[glance] region_name: becomes [backend:glance] region_name = RegionOne",
        "[glance] swift_temp_url_key: stays Ironic's: its own code signs temporary URLs",
        f"[conductor] file_url_allowed_paths: becomes [backend:file] allowed_paths = {tmp_path}",
    ):
        assert_that(done.stderr, Contains(line))
    assert_that(done.stderr + done.stdout.decode(), Not(Contains("s3cret")))
    assert_that(done.stderr + done.stdout.decode(), Not(Contains("a-key-for-urls")))
    assert_that((done.status, done.stdout.decode()), Equals((0, "")))


def test_what_a_deployer_of_ironic_has_set_is_told_option_by_option(
    checked: Checked, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    default = (
        f"webserver_verify_ca = {ca}\nwebserver_connection_timeout = 20\n"
        "webserver_tls_minimum_version = 1.3\nwebserver_tls_ciphers = AES"
    )
    more = (
        "[agent]\nallow_md5_checksum = true\n[deploy]\nimage_server_auth_strategy = http_basic\n"
        "image_server_user = agent\nimage_server_password = s3cret\n"
        "[oci]\nverify_ca = false\nauthentication_config = /etc/ironic/pull\n"
        "permit_fallback_to_http_transport = true\n"
    )
    done = checked(ironic(tmp_path, more, default), "ironic.conf")
    for line in (
        f"[DEFAULT] webserver_verify_ca: becomes [backend:http] ca_file = {ca}",
        "[DEFAULT] webserver_connection_timeout: becomes [imagebroker] connect_timeout = 20.0, and",
        "[DEFAULT] webserver_tls_minimum_version: becomes [backend:http] min_tls = TLSv1.3",
        "[DEFAULT] webserver_tls_ciphers: has no effect",
        "[agent] allow_md5_checksum: becomes [imagebroker] allow_md5 = True",
        "[deploy] image_server_password: is sent to the server of each href",
        "[oci] verify_ca: becomes [backend:oci] insecure = True",
        "[oci] authentication_config: becomes [backend:oci] pull_secret_file = /etc/ironic/pull",
        "[oci] permit_fallback_to_http_transport: has no effect: set [backend:oci] plain_http",
    ):
        assert_that(done.stderr, Contains(line))
    assert_that(done.stderr + done.stdout.decode(), Not(Contains("s3cret")))


def test_a_stock_cinder_conf_is_understood(checked: Checked) -> None:
    done = checked(cinder("glance_api_servers = http://controller:9292"), "cinder.conf")
    line = (
        "[DEFAULT] glance_api_servers: becomes [backend:glance] endpoint = http://controller:9292/"
    )
    assert_that(done.stderr, Contains(line))
    assert_that(done.stderr + done.stdout.decode(), Not(Contains("CINDER_PASS")))
    assert_that((done.status, done.stdout.decode()), Equals((0, "")))


def test_what_a_deployer_of_cinder_has_set_is_told_option_by_option(checked: Checked) -> None:
    lines = (
        "glance_catalog_info = image:glance:internalURL\nglance_num_retries = 5\n"
        "glance_ca_certificates_file = /etc/ssl/certs/ca-certificates.crt\n"
        "glance_api_insecure = true\nallowed_direct_url_schemes = file\n"
        "verify_glance_signatures = disabled\n"
    )
    more = (
        "[service_user]\nsend_service_user_token = true\nauth_type = password\npassword = s3cret\n"
    )
    done = checked(cinder(lines, more), "cinder.conf")
    for line in (
        "[DEFAULT] glance_catalog_info: becomes [backend:glance] service_type = image, "
        "valid_interfaces = internal",
        "[DEFAULT] glance_num_retries: becomes [imagebroker] retries = 5",
        "[DEFAULT] glance_ca_certificates_file: becomes [backend:glance] cafile = /etc/ssl",
        "[DEFAULT] glance_api_insecure: becomes [backend:glance] insecure = True",
        "[DEFAULT] allowed_direct_url_schemes: is not taken over",
        "[DEFAULT] verify_glance_signatures: stays Cinder's",
        "[service_user] password: becomes [backend:glance] password",
    ):
        assert_that(done.stderr, Contains(line))
    assert_that(done.stderr + done.stdout.decode(), Not(Contains("s3cret")))


@pytest.mark.parametrize(
    ("name", "written", "service"),
    [
        ("ironic.conf", {}, "ironic"),
        ("conductor.conf", {"deploy": {}, "glance": {}}, "ironic"),
        ("volume.conf", {"DEFAULT": {"enabled_backends": ["lvm"]}}, "cinder"),
        ("compute.conf", {"glance": {}, "libvirt": {}}, "nova"),
        ("nova.conf", {"imagebroker": {}}, "nova"),
        ("imagebroker.conf", {"imagebroker": {}, "backend:glance": {}, "DEFAULT": {}}, None),
        ("manila.conf", {"DEFAULT": {"debug": ["true"]}, "glance": {}, "database": {}}, None),
    ],
)
def test_whose_file_it_is_shows_in_its_name_or_its_sections(
    name: str, written: dict[str, dict[str, object]], service: str | None
) -> None:
    found = service_of(Path("/etc/x") / name, written)
    assert_that(None if found is None else found.service, Equals(service))


def test_an_own_section_counts_more(checked: Checked) -> None:
    own = "[imagebroker]\nretries = 7\n"
    done = checked(own + cinder("glance_num_retries = 5"), "cinder.conf")
    assert_that("retries" in done.stderr, Is(True))
    assert_that(done.status, Equals(0))


@pytest.mark.parametrize("name", ["nova.conf", "ironic.conf", "cinder.conf"])
def test_a_file_with_nothing_but_the_options_for_glance_has_no_unknown_section(
    checked: Checked, name: str
) -> None:
    done = checked("[glance]\nregion_name = RegionOne\n", name)
    assert_that(done.stdout.decode(), Not(Contains("unknown section")))
    assert_that(done.stderr, Contains("[backend:glance] region_name = RegionOne"))
