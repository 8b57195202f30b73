"""An image in several stores of the real Glance: each location, and where it is read from."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, MatchesSetwise

import imagebroker
from tests.cli.conftest import Shell
from tests.servers.openstack import OpenStack

DATA = os.urandom(100_000)


@pytest.fixture
def broker(
    openstack: OpenStack, make_broker: Callable[[str], imagebroker.Broker]
) -> imagebroker.Broker:
    return make_broker(config(openstack))


def config(openstack: OpenStack, more: str = "") -> str:
    """Locations are read directly; `more`: lines of `[imagebroker]`."""
    options = openstack.auth_options("admin")
    lines = "\n".join(f"{key} = {value}" for key, value in options.items())
    return (
        f"[imagebroker]\n{more}\nenabled_schemes = glance, file\ndefault_backend = glance\n"
        f"direct_url_schemes = file\n[backend:glance]\n{lines}\nallowed_networks = 127.0.0.0/8\n"
        f"endpoint = {openstack.locations_endpoint()}/\n"
        f"[backend:file]\nallowed_paths = {openstack.stores}\n"
    )


@pytest.fixture
def image(openstack: OpenStack, broker: imagebroker.Broker) -> str:
    """The id of an image in the stores `fast` and `slow`."""
    found = openstack.create_image(DATA, user="admin")
    broker.import_image(None, found, stores=["slow"])
    ends = time.monotonic() + 60
    while not openstack.stored_file(found, "slow").exists():
        assert time.monotonic() < ends
    return found


@pytest.mark.promise("locations")
def test_every_location_is_shown_with_its_store_and_its_metadata(
    broker: imagebroker.Broker, image: str
) -> None:
    locations = broker.get(None, image, include_locations=True).locations or ()
    assert_that([each.store for each in locations], MatchesSetwise(Equals("fast"), Equals("slow")))
    for each in locations:
        assert_that(each.url, Contains(f"/{each.store}/"))
    fast = next(each for each in locations if each.store == "fast")
    assert_that(fast.metadata["mountpoint"], Equals("/"))


@pytest.mark.promise("locations")
@pytest.mark.parametrize("store", ["fast", "slow"])
def test_it_is_read_from_the_store_that_the_caller_prefers(
    broker: imagebroker.Broker, image: str, tmp_path: Path, store: str
) -> None:
    done = broker.download(None, image, tmp_path / "image", prefer=[store])
    assert_that((done.via, done.store), Equals(("location", store)))
    assert_that(done.source, Contains(f"/{store}/"))
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))


@pytest.mark.promise("locations")
@pytest.mark.parametrize(("options", "store"), [((), "slow"), (("--prefer", "fast,slow"), "fast")])
def test_the_command_prefers_another_store_than_the_configuration(
    openstack: OpenStack, image: str, tmp_path: Path, options: tuple[str, ...], store: str
) -> None:
    shell = Shell(tmp_path)
    shell.config(config(openstack, "prefer = slow, fast")).chmod(0o600)
    done = shell.run("-q", "download", image, "image", "-f", "json", *options)
    assert_that(done.stderr, Equals(""))
    assert_that(done.record["source"], Contains(f"/{store}/"))
    assert_that((shell.work / "image").read_bytes(), Equals(DATA))
