"""A person and the real Keystone and Glance: a mistake is named, and what to type instead."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, MatchesAny

from tests.cli.conftest import Inside, imagebroker
from tests.servers.openstack import OpenStack

__all__ = ["imagebroker"]

DATA = os.urandom(5000)


@pytest.fixture
def red(
    imagebroker: Inside, openstack: OpenStack, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Inside]:
    """The command of red, whose cloud is in the environment."""
    for name, value in variables(openstack, "red").items():
        monkeypatch.setenv(name, value)
    (imagebroker.work / "data").write_bytes(DATA)
    yield imagebroker


def variables(openstack: OpenStack, user: str) -> dict[str, str]:
    named = openstack.auth_options(user)
    return {f"OS_{name.upper()}": value for name, value in named.items() if name != "auth_type"}


@pytest.fixture(scope="module")
def image(openstack: OpenStack) -> str:
    return openstack.create_image(DATA, name="by hand")


def create(red: Inside, *more: str) -> str:
    made = red("create", "--backend", "glance", "--file", "data", "-f", "value", "-c", "id", *more)
    assert_that(made.status, Equals(0), made.stderr)
    return made.stdout.decode().strip()


# -- the login -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "hint"),
    [
        ({"OS_PROJECT_NAME": ""}, "export OS_PROJECT_NAME=…"),
        ({"OS_PASSWORD": "wrong"}, "check OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME"),
        ({"OS_PROJECT_NAME": "blue"}, "check OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME"),
        ({"OS_REGION_NAME": "Elsewhere"}, "check OS_REGION_NAME"),
        ({"OS_SYSTEM_SCOPE": "all"}, "unset OS_SYSTEM_SCOPE"),
        ({"OS_DOMAIN_NAME": "Default"}, "unset OS_DOMAIN_NAME"),
        ({"OS_AUTH_TYPE": "token", "OS_TOKEN": "gone"}, "export OS_TOKEN="),
    ],
)
def test_a_login_that_is_wrong_names_the_variable(
    changed: dict[str, str], hint: str, red: Inside, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    done = red("download", f"glance:{image}", "x")
    assert_that(done.stderr, Contains(hint))
    assert_that(done.status, MatchesAny(Equals(2), Equals(4)), done.stderr)


def test_a_person_without_domains_is_of_the_default_domain(
    red: Inside, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `openstack` takes it."""
    monkeypatch.delenv("OS_USER_DOMAIN_NAME")
    monkeypatch.delenv("OS_PROJECT_DOMAIN_NAME")
    done = red("download", f"glance:{image}", "x")
    assert_that(done.status, Equals(0), done.stderr)
    monkeypatch.setenv("OS_DEFAULT_DOMAIN", "nosuch")
    assert_that(red("download", f"glance:{image}", "y").status, Equals(4))
