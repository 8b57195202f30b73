"""A person and the real Keystone and Glance: a mistake is named, and what to type instead."""

from __future__ import annotations

import os
import subprocess
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


# -- names and ids ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ubuntu:22.04", "a b", "a: b", "a\nb"])
def test_a_name_with_a_colon_or_a_blank_is_found(name: str, red: Inside) -> None:
    made = create(red, "--name", name)
    done = red("download", f"glance:{name}")
    assert_that(done.status, Equals(0), done.stderr)
    assert_that((red.work / name).read_bytes(), Equals(DATA))
    red("delete", f"glance:{made}")
    gone = red("show", f"glance:{name}")
    assert_that((gone.status, "image-not-found" in gone.stderr), Equals((3, True)), gone.stderr)


def test_an_id_that_is_spelled_otherwise_is_told_how_it_is_written(red: Inside, image: str) -> None:
    for spelled in (f"{{{image}}}", image.replace("-", ""), image.replace("-", "").upper()):
        done = red("show", f"glance:{spelled}")
        assert_that(done.stderr, Contains(f"write the id as glance:{image}"))
    done = red("show", f"glance:{image.upper()}")
    assert_that(done.status, Equals(3))
    assert_that(done.stderr, Contains(f": {image}"))


def test_the_ref_that_a_list_shows_is_a_marker(red: Inside, image: str) -> None:
    by_id, by_ref = (
        red("list", "--backend", "glance", "--marker", marker, "-f", "value").stdout
        for marker in (image, f"glance:{image}")
    )
    assert_that(by_ref, Equals(by_id))


# -- lists -----------------------------------------------------------------------------------------


def test_a_property_is_found_whatever_it_is_called(red: Inside) -> None:
    """`hw_disk_min` is no range of sizes."""
    made = create(red, "--property", "hw_disk_min=5", "--property", "size_max=x")
    for chosen in ("hw_disk_min=5", "size_max=x"):
        listed = red("list", "--backend", "glance", "--property", chosen, "-f", "value", "-c", "id")
        assert_that(listed.stdout.decode().split(), Equals([made]), listed.stderr)


def test_a_field_that_is_no_property_names_its_option(red: Inside) -> None:
    done = red("list", "--backend", "glance", "--property", "disk_format=qcow2")
    assert_that(done.stderr, Contains("write --disk-format qcow2"))
    assert_that(red("list", "--sort", "nosuch").stderr, Contains("one of container_format,"))


# -- what the service refuses ----------------------------------------------------------------------


def test_a_file_that_is_unsafe_is_refused_for_that(red: Inside) -> None:
    """Not for its format, which cannot be told."""
    subprocess.run(
        ["qemu-img", "create", "-qf", "qcow2", "-b", "/etc/passwd", "-F", "raw", "x", "1M"],
        cwd=red.work, check=True,
    )  # fmt: skip
    done = red("create", "--backend", "glance", "--file", "x")
    assert_that(done.status, Equals(6))
    assert_that(done.stderr, Contains("the data: the qcow2 has a backing file"))


def test_a_limit_of_properties_is_not_one_of_images(red: Inside) -> None:
    many = [f"--property=p{number}=1" for number in range(129)]
    done = red("create", "--backend", "glance", "--file", "data", *many)
    assert_that(done.stderr, Contains("give it fewer of them"))


def test_the_id_of_a_deleted_image_is_not_free(red: Inside) -> None:
    made = create(red)
    red("delete", f"glance:{made}")
    done = red("create", "--backend", "glance", "--file", "data", "--id", made)
    assert_that(done.stderr, Contains("choose another id: that of a deleted image"))


def test_members_of_a_private_image(red: Inside, openstack: OpenStack) -> None:
    blue = openstack.project_ids["blue"]
    done = red("create", "--backend", "glance", "--file", "data", "--private", "--member", blue)
    assert_that(done.stderr, Contains("--shared"))


def test_an_active_image_whose_data_is_lost_is_not_uploaded_again(
    red: Inside, openstack: OpenStack
) -> None:
    made = create(red)
    openstack.stored_file(made).unlink()
    red.config(
        "[imagebroker]\nenabled_schemes = glance\nretries = 0\n[backend:glance]\n"
        f"allowed_networks = 127.0.0.0/8\nendpoint = {openstack.endpoint}/\n"
        + "".join(f"{name} = {value}\n" for name, value in openstack.auth_options("red").items())
    )
    done = red("download", f"glance:{made}", "x")
    assert_that(done.stderr, Contains("delete the image and create it again"))


def test_the_hint_for_a_protected_image_can_be_typed(red: Inside) -> None:
    made = create(red, "--protected")
    done = red("delete", f"glance:{made}")
    typed = done.stderr.rpartition("first: imagebroker ")[2].split()
    assert_that(red(*typed).status, Equals(0), done.stderr)
    assert_that(red("delete", f"glance:{made}").status, Equals(0))
