"""`imagebroker check` logs in at Keystone and asks Glance: each mistake has a remedy that helps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, MatchesRegex

from tests.cli.check.findings import Findings
from tests.cli.conftest import Inside
from tests.servers.openstack import OpenStack

Checked = Callable[..., Findings]


@pytest.fixture
def checked(imagebroker: Inside, openstack: OpenStack) -> Checked:
    """What `check` finds with these options instead of the right ones; None removes one."""

    def check(**changes: str | None) -> Findings:
        right = {**openstack.auth_options("red"), "endpoint": f"{openstack.endpoint}/"}
        options = {k: v for k, v in {**right, **changes}.items() if v is not None}
        lines = "".join(f"{name} = {value}\n" for name, value in options.items())
        return Findings(
            imagebroker,
            f"[imagebroker]\nenabled_schemes = glance\n[backend:glance]\n{lines}",
            mode=0o600,
        )

    return check


def failures(found: Findings) -> list[dict[str, str]]:
    return [row for row in found.found if row["level"] == "failure"]


def test_a_login_that_works_is_said(checked: Checked) -> None:
    found = checked()
    assert_that(failures(found), Equals([]))
    assert_that(found.stderr, Contains("logged in as red; the image service answers"))
    assert_that(found.status, Equals(0))


@pytest.mark.parametrize(("option", "value"), [
    ("password", "another"), ("project_name", "nothing"), ("username", "nobody"),
    ("user_domain_name", "elsewhere"),
])  # fmt: skip
def test_wrong_credentials_are_refused(option: str, value: str, checked: Checked) -> None:
    [found] = failures(checked(**{option: value}))
    assert_that(found["what"], Contains("Keystone refuses the service's credentials"))
    assert_that(found["remedy"], Contains("check username, password, project"))


@pytest.mark.parametrize("option", ["auth_url", "endpoint"])
def test_the_wrong_protocol_is_said_for_the_option(
    option: str, checked: Checked, openstack: OpenStack
) -> None:
    right = openstack.auth_url if option == "auth_url" else f"{openstack.endpoint}/"
    [found] = failures(checked(**{option: right.replace("http://", "https://")}))
    assert_that(found["where"], Equals(f"[backend:glance] {option}"))
    assert_that(found["remedy"], Contains("write http:// instead of https://"))
    assert_that(failures(checked(**{option: right})), Equals([]))


def test_keystone_as_the_endpoint_is_no_image_service(
    checked: Checked, openstack: OpenStack
) -> None:
    [found] = failures(checked(endpoint=openstack.auth_url.removesuffix("v3")))
    assert_that(found["where"], Equals("[backend:glance] endpoint"))
    assert_that(found["what"], Contains("not an image service"))
    assert_that(found["remedy"], Contains("remove it to use the service catalogue"))
    # As the remedy says. What then is refused is the address in the catalogue.
    [found] = failures(checked(endpoint=None))
    assert_that(found["where"], Equals("[backend:glance] allowed_networks"))


def test_an_address_in_the_catalogue_that_the_policy_refuses_is_found(checked: Checked) -> None:
    [found] = failures(checked(endpoint=None))
    assert_that(found["what"], Contains("in the catalogue is refused: 127.0.0.1 is not"))
    line = "allowed_networks = 127.0.0.1"
    assert_that(found["remedy"], Contains(line))
    assert_that(failures(checked(endpoint=None, allowed_networks="127.0.0.1")), Equals([]))


def test_an_auth_url_that_is_glance_is_found(checked: Checked, openstack: OpenStack) -> None:
    [found] = failures(checked(auth_url=openstack.endpoint))
    assert_that(found["remedy"], Contains("set auth_url to the address of Keystone"))


def test_a_missing_domain_is_not_blamed_on_the_url(checked: Checked) -> None:
    [found] = failures(checked(user_domain_name=None))
    assert_that(found["remedy"], MatchesRegex("set user_domain_name and project_domain_name"))
    assert_that(failures(checked(user_domain_name="Default")), Equals([]))


def test_a_missing_password_is_no_bug_of_the_plugin(checked: Checked) -> None:
    [found] = failures(checked(password=None))
    assert_that(found["what"], Contains("password is not set"))
    assert_that(found["remedy"], Contains("set password"))


@pytest.mark.parametrize(("typed", "remedy"), [
    ("passwrod", "did you mean password?"), ("magic", "set it to password"),
    ("token", "set token"), ("v3applicationcredential", "set the options of"),
])  # fmt: skip
def test_an_auth_type_that_cannot_work_is_one_line(
    typed: str, remedy: str, checked: Checked
) -> None:
    """Stevedore logs what it does not find."""
    found = checked(auth_type=typed)
    [failure] = failures(found)
    assert_that(failure["remedy"], Contains(remedy))
    assert_that(found.stderr, Equals(""))


def test_a_region_that_is_not_in_the_catalogue_is_found(checked: Checked) -> None:
    [found] = failures(checked(endpoint=None, region_name="Nowhere"))
    assert_that(found["what"], Contains("Nowhere region not found"))
    assert_that(found["remedy"], Contains("region_name"))


def test_nobody_is_asked_offline(imagebroker: Inside, openstack: OpenStack) -> None:
    options = {**openstack.auth_options("red"), "password": "another"}
    lines = "".join(f"{name} = {value}\n" for name, value in options.items())
    config = f"[imagebroker]\nenabled_schemes = glance\n[backend:glance]\n{lines}"
    found = Findings(imagebroker, config, "--offline", mode=0o600)
    assert_that((found.found, found.status), Equals(([], 0)))
