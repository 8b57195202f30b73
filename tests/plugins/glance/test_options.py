"""What `[backend:glance]` may hold, and what a person's environment may add to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from imagebroker_glance import GlanceBackend
from imagebroker_glance.personal import personal_options
from oslo_config import cfg
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, MatchesAll, Not

from imagebroker.plugin import ConfigError, Options
from tests.plugins.glance_stub import CORE, make_backend, make_host, ref_of
from tests.servers.certificates import write_certificates
from tests.servers.openstack import OpenStack


def test_every_option_of_keystoneauth_is_there_and_none_is_required() -> None:
    options = {opt.dest: opt for opt in GlanceBackend.options}
    for name in (
        "auth_type", "auth_url", "username", "password", "project_name", "user_domain_name",
        "application_credential_id", "application_credential_secret", "system_scope", "cafile",
        "certfile", "keyfile", "insecure", "timeout", "region_name", "valid_interfaces", "token",
    ):  # fmt: skip
        assert_that(options, Contains(name))
    assert_that([name for name, opt in options.items() if opt.required], Equals([]))
    assert_that([name for name in CORE if name in options], Equals([]))
    assert_that({n for n in ("password", "token") if not options[n].secret}, Equals(set()))


def test_the_options_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text("[backend:glance]\nauth_type = password\nuser_name = u\nauth-url = x\n"
                    "valid_interfaces = internal, public\n")  # fmt: skip
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(path)], use_env=False)
    conf.register_opts(GlanceBackend.options, group="backend:glance")
    group = conf["backend:glance"]
    assert_that(group.username, Equals("u"))
    assert_that(group.valid_interfaces, Equals(["internal", "public"]))
    assert_that(group.service_type, Equals("image"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"auth_section": "keystone"}, "auth_section"),
        ({"endpoint_override": "http://h/"}, "endpoint"),
        ({"insecure": True}, "cafile"),
        ({"keyfile": "/x"}, "certfile"),
        ({"cafile": "/does/not/exist"}, "PEM"),
        ({"cafile": __file__}, "PEM"),
        ({"certfile": "/does/not/exist"}, "PEM"),
        ({"endpoint": ["http://h:9292/v2/"]}, "without"),
        ({"endpoint": ["scp://h/"]}, "https"),
        ({"valid_interfaces": ["outside"]}, "public"),
        ({"min_version": "3"}, "min_version"),
        ({"auth_type": "telepathy"}, "password"),
        ({"auth_type": "v3oidcpassword", "auth_url": "http://h/"}, "v3oidcpassword"),
        ({"username": "u", "password": "canary"}, "auth_type"),
    ],
)
def test_what_cannot_work_is_refused_at_once_with_the_remedy(
    options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_backend(**options)
    assert_that(f"{caught.value} {caught.value.hint}", Contains(named))
    assert_that(bool(caught.value.hint), Is(True))
    assert_that(str(caught.value), Not(Contains("canary")))


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(tmp_path: Path) -> None:
    write_certificates(tmp_path)
    key = serialization.load_pem_private_key((tmp_path / "good.pem").read_bytes(), None)
    secret = tmp_path / "key.pem"
    secret.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"x"),
    ))  # fmt: skip
    with pytest.raises(ConfigError):
        make_backend(certfile=str(tmp_path / "good.pem"), keyfile=str(secret))


def test_a_key_that_everybody_may_read_is_worth_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_certificates(tmp_path)
    certificate = tmp_path / "good.pem"
    certificate.chmod(0o644)
    make_backend(certfile=str(certificate))
    assert_that(caplog.text, Contains(str(certificate)))


def test_without_keystoneauth_the_plugin_imports_and_says_what_to_install() -> None:
    script = """
import json, sys
sys.modules["keystoneauth1"] = None
from imagebroker_glance import GlanceBackend
from imagebroker.plugin import BackendHost, Options
names = [opt.dest for opt in GlanceBackend.options]
try:
    GlanceBackend(BackendHost(name="glance", options=Options({})))
except Exception as error:
    print(json.dumps([type(error).__name__, error.hint, names]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    kind, hint, names = json.loads(done.stdout)
    assert_that(kind, Equals("BackendLoadError"))
    assert_that(hint, Contains("imagebroker[glance]"))
    assert_that(names, Contains("cafile"))


def test_importing_the_plugin_imports_no_heavy_library() -> None:
    script = "import imagebroker_glance, sys; print('keystoneauth1' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert_that(done.stdout.strip(), Equals("False"))


# -- a person's cloud ------------------------------------------------------------------------------

VARIABLES = {
    "OS_AUTH_URL": "http://keystone/v3", "OS_USERNAME": "u", "OS_PASSWORD": "p",
    "OS_PROJECT_NAME": "x", "OS_USER_DOMAIN_NAME": "d", "OS_PROJECT_DOMAIN_ID": "default",
    "OS_REGION_NAME": "one", "OS_INTERFACE": "internal", "OS_CACERT": "/ca.pem",
}  # fmt: skip


def personal(environ: dict[str, str], **options: Any) -> dict[str, Any]:
    return dict(personal_options(Options(options), environ))


def test_the_usual_variables_are_understood() -> None:
    assert_that(personal(VARIABLES), Equals({
        "auth_type": "password", "auth_url": "http://keystone/v3", "username": "u", "password": "p",
        "project_name": "x", "user_domain_name": "d", "project_domain_id": "default",
        "region_name": "one", "interface": "internal", "cafile": "/ca.pem",
    }))  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OS_TOKEN": "t"}, {"auth_type": "token", "token": "t"}),
        ({"OS_APPLICATION_CREDENTIAL_ID": "i", "OS_APPLICATION_CREDENTIAL_SECRET": "s"},
         {"auth_type": "v3applicationcredential", "application_credential_id": "i"}),
        ({"OS_AUTH_TYPE": "v3password", "OS_PASSWORD": "p"},
         {"auth_type": "v3password", "password": "p"}),
        ({"OS_USERNAME": "u", "OS_PASSWORD": "p", "OS_TENANT_NAME": "old"},
         {"auth_type": "password", "project_name": "old"}),
    ],
)  # fmt: skip
def test_the_auth_type_follows_from_what_is_set(
    variables: dict[str, str], expected: dict[str, str]
) -> None:
    found = personal({"OS_AUTH_URL": "http://keystone", **variables})
    assert_that({name: found.get(name) for name in expected}, Equals(expected))


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ((), "OS_USERNAME"),
        (("OS_USERNAME",), "OS_PASSWORD"),
        (("OS_PASSWORD",), "OS_USERNAME"),
        (("OS_APPLICATION_CREDENTIAL_ID",), "OS_APPLICATION_CREDENTIAL_SECRET"),
        (("OS_APPLICATION_CREDENTIAL_SECRET",), "OS_APPLICATION_CREDENTIAL_ID"),
    ],
)
def test_the_variable_that_is_missing_from_a_login_is_named(
    given: tuple[str, ...], missing: str
) -> None:
    environ = {"OS_AUTH_URL": "http://keystone"} | dict.fromkeys(given, "x")
    with pytest.raises(ConfigError, match=f"but {missing} is not") as caught:
        personal(environ)
    assert_that(caught.value.hint, Contains(f"export {missing}=…"))


def test_a_configured_backend_and_an_empty_environment_stay_as_they_are() -> None:
    assert_that(personal(VARIABLES, auth_type="none"), Equals({"auth_type": "none"}))
    assert_that(personal({}), Equals({}))


def clouds(folder: Path, name: str, text: str) -> None:
    (folder / "openstack").mkdir(exist_ok=True)
    (folder / "openstack" / name).write_text(text)


def test_a_cloud_is_read_with_its_secrets(tmp_path: Path) -> None:
    clouds(
        tmp_path,
        "clouds.yaml",
        """
clouds:
  mine:
    auth: {auth_url: "http://keystone", username: u, project_name: x}
    region_name: one
    cacert: /ca.pem
    verify: false
    image_endpoint_override: http://images/
""",
    )
    clouds(tmp_path, "secure.yaml", "clouds: {mine: {auth: {password: p}}}")
    found = personal({"OS_CLOUD": "mine", "XDG_CONFIG_HOME": str(tmp_path)})
    assert_that(found, Equals({
        "auth_type": "password", "auth_url": "http://keystone", "username": "u", "password": "p",
        "project_name": "x", "region_name": "one", "cafile": "/ca.pem", "insecure": True,
        "allow_insecure": True, "endpoint": ["http://images/"],
        "user_domain_id": "default", "project_domain_id": "default",
    }))  # fmt: skip


CLOUDS = {
    "an endpoint with the version, as openstacksdk takes it": (
        "clouds: {mine: {auth: {auth_url: u}, image_endpoint_override: 'http://h:9292/v2/'}}",
        {"endpoint": ["http://h:9292/"]},
    ),
    "what YAML takes for numbers, dates and truths": (
        "clouds: {mine: {auth: {auth_url: u, username: no, password: 0123, project_name: 1.10, "
        "user_domain_name: 2026-01-01}}}",
        {"username": "no", "password": "0123", "project_name": "1.10",
         "user_domain_name": "2026-01-01", "auth_type": "password"},
    ),
    "an application credential without an auth_type": (
        "clouds: {mine: {auth: {auth_url: u, application_credential_id: i, "
        "application_credential_secret: s}}}",
        {"auth_type": "v3applicationcredential", "application_credential_id": "i"},
    ),
    "a token without an auth_type": (
        "clouds: {mine: {auth: {auth_url: u, token: t}}}", {"auth_type": "token", "token": "t"},
    ),
    "an anchor, a byte order mark and an older name of the interface": (
        "\ufeffclouds:\n  base: &base {auth: {auth_url: u}, endpoint_type: internal}\n"
        "  mine:\n    <<: *base\n    cacert: ~/ca.pem\n    verify: 'False'\n",
        {"auth_url": "u", "interface": "internal", "cafile": os.path.expanduser("~/ca.pem"),
         "insecure": True},
    ),
    "a profile": (
        "clouds: {mine: {profile: acme, auth: {username: u}}}",
        {"auth_url": "http://acme", "region_name": "one", "username": "u"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", CLOUDS)
def test_a_cloud_is_read_as_people_write_it(kind: str, tmp_path: Path) -> None:
    text, right = CLOUDS[kind]
    clouds(tmp_path, "clouds.yaml", text)
    clouds(
        tmp_path, "clouds-public.yaml",
        "public-clouds: {acme: {auth: {auth_url: http://acme}, region_name: one}}",
    )  # fmt: skip
    found = personal({"OS_CLOUD": "mine", "XDG_CONFIG_HOME": str(tmp_path)})
    assert_that({name: found.get(name) for name in right}, Equals(right))


def test_secrets_may_be_all_that_a_cloud_has_of_a_login(tmp_path: Path) -> None:
    clouds(tmp_path, "clouds.yaml", "clouds: {mine: {auth: , region_name: one}}")
    clouds(tmp_path, "secure.yaml", "clouds: {mine: {auth: {auth_url: u, password: p}}}")
    found = personal({"OS_CLOUD": "mine", "XDG_CONFIG_HOME": str(tmp_path)})
    assert_that((found["region_name"], found["password"]), Equals(("one", "p")))


def test_a_profile_that_nobody_has_is_named(tmp_path: Path) -> None:
    clouds(tmp_path, "clouds.yaml", "clouds: {mine: {profile: vexxhost, auth: {username: u}}}")
    with pytest.raises(ConfigError, match="vexxhost") as caught:
        personal({"OS_CLOUD": "mine", "XDG_CONFIG_HOME": str(tmp_path)})
    assert_that(caught.value.hint, Contains("write the auth_url of vexxhost"))


@pytest.mark.parametrize(
    "text", ["clouds: {other: {}}", "[]", "clouds: 7", "a: [", "clouds: {mine: {auth: 7}}", ""]
)
def test_a_cloud_that_is_not_there_is_a_matter_of_configuration(tmp_path: Path, text: str) -> None:
    clouds(tmp_path, "clouds.yaml", text)
    with pytest.raises(ConfigError) as caught:
        personal({"OS_CLOUD": "mine", "XDG_CONFIG_HOME": str(tmp_path)})
    assert_that(bool(caught.value.hint), Is(True))


@pytest.mark.parametrize(("typed", "meant"), [("vexxhots", "vexxhost"), ("vexx-host", "vexxhost")])
def test_a_cloud_that_was_misspelt_is_named(tmp_path: Path, typed: str, meant: str) -> None:
    clouds(tmp_path, "clouds.yaml", f"clouds: {{{meant}: {{auth: {{auth_url: u}}}}, other: {{}}}}")
    with pytest.raises(ConfigError) as caught:
        personal({"OS_CLOUD": typed, "XDG_CONFIG_HOME": str(tmp_path)})
    assert_that(caught.value.hint, Contains(f"export OS_CLOUD={meant},"))


@pytest.mark.parametrize("url", ["127.0.0.1:5000/v3", "keystone.example.org"])
def test_an_auth_url_without_its_scheme_is_what_is_wrong(url: str) -> None:
    variables = {"OS_AUTH_URL": url, "OS_USERNAME": "u", "OS_PASSWORD": "p"}
    with pytest.raises(ConfigError) as caught:
        GlanceBackend(make_host(**personal(variables)))
    assert_that(str(caught.value), Contains(f"auth_url '{url}' is not a URL"))
    assert_that(caught.value.hint, Contains("OS_AUTH_URL, as https://"))


def test_a_person_reaches_their_cloud_and_a_service_does_not(
    openstack: OpenStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image_id = openstack.create_image(b"x")
    for name, value in openstack.auth_options("red").items():
        monkeypatch.setenv(f"OS_{name.upper()}", value)
    person = GlanceBackend(make_host(personal=True))
    assert_that(person.get(None, ref_of(image_id)).id, Equals(image_id))
    with pytest.raises(ConfigError):
        GlanceBackend(make_host()).get(None, ref_of(image_id))
    monkeypatch.setenv("OS_CLOUD", "mine")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    auth = {k: v for k, v in openstack.auth_options("red").items() if k != "auth_type"}
    clouds(tmp_path, "clouds.yaml", json.dumps({"clouds": {"mine": {"auth": auth}}}))
    for name in openstack.auth_options("red"):
        monkeypatch.delenv(f"OS_{name.upper()}")
    assert_that(
        GlanceBackend(make_host(personal=True)).get(None, ref_of(image_id)).id, Equals(image_id)
    )
    monkeypatch.delenv("OS_CLOUD")
    with pytest.raises(ConfigError) as caught:
        GlanceBackend(make_host(personal=True)).get(None, ref_of(image_id))
    assert_that(caught.value.hint, MatchesAll(Contains("OS_CLOUD")))
