"""The login of a person without a config file: what swiftclient and openstackclient would take."""

from __future__ import annotations

from typing import Any

import pytest
from imagebroker_swift import SwiftBackend
from imagebroker_swift.options import backend_options
from imagebroker_swift.personal import personal_options
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Not

from imagebroker.exceptions import ConfigError
from imagebroker.plugin import BackendHost, Options
from imagebroker.policy.addresses import Policy
from tests.plugins.swift.conftest import Container
from tests.servers.swift import ACCESS_KEY, SECRET_KEY

OWN = {"ST_AUTH": "http://swift/auth/v1.0", "ST_USER": "a:b", "ST_KEY": "canary-key"}
CLOUD = {
    "OS_AUTH_URL": "http://keystone/v3", "OS_USERNAME": "u", "OS_PASSWORD": "canary-password",
    "OS_PROJECT_NAME": "p", "OS_INTERFACE": "internal", "OS_CACERT": "/ca.pem",
}  # fmt: skip


def personal(environ: dict[str, str], **options: Any) -> dict[str, Any]:
    return dict(personal_options(Options(options), environ))


def test_a_person_logs_in_with_the_variables_of_swiftclient(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("ST_AUTH", container.server.auth_url), ("ST_USER", ACCESS_KEY), ("ST_KEY", SECRET_KEY),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    values = {option.dest: option.default for option in backend_options()}
    host = BackendHost("swift", Options(values), personal=True, policy=Policy(trusting=True))
    (found,) = SwiftBackend(host).check(None)
    assert_that(found.what, Contains("logged in; the account is http://127.0.0.1:"))


def test_the_usual_variables_are_understood() -> None:
    assert_that(
        personal(OWN),
        Equals({
            "auth_type": "v1password", "auth_url": "http://swift/auth/v1.0", "username": "a:b",
            "password": "canary-key",
        }),
    )  # fmt: skip
    assert_that(
        personal(CLOUD),
        Equals({
            "auth_type": "password", "auth_url": "http://keystone/v3", "username": "u",
            "password": "canary-password", "project_name": "p", "valid_interfaces": ["internal"],
            "ca_file": "/ca.pem", "user_domain_id": "default", "project_domain_id": "default",
        }),
    )  # fmt: skip
    assert_that(personal(OWN | CLOUD)["auth_type"], Equals("v1password"))
    assert_that(personal({}), Equals({}))


def test_a_config_file_that_names_an_account_is_not_mixed_with_the_environment() -> None:
    own = {"storage_url": "https://swift/v1/AUTH_x"}
    assert_that(personal(OWN | CLOUD, **own), Equals(own))


@pytest.mark.parametrize(
    ("lost", "of"),
    [
        ("ST_AUTH", OWN), ("ST_USER", OWN), ("ST_KEY", OWN), ("OS_AUTH_URL", CLOUD),
        ("OS_USERNAME", CLOUD), ("OS_PASSWORD", CLOUD),
    ],
)  # fmt: skip
def test_the_missing_half_of_a_login_is_named(lost: str, of: dict[str, str]) -> None:
    environ = {name: value for name, value in of.items() if name != lost}
    with pytest.raises(ConfigError, match=f"but {lost} is not") as caught:
        personal(environ)
    assert_that(f"{caught.value} {caught.value.hint}", Not(Contains("canary")))


def test_half_of_one_login_does_not_hide_the_other() -> None:
    assert_that(personal(CLOUD | {"ST_USER": "a:b"})["auth_type"], Equals("password"))
    with pytest.raises(ConfigError, match="version 1 only"):
        personal(OWN | {"ST_AUTH_VERSION": "3"})
