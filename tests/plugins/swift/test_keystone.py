"""Swift with the real Keystone: the service's own login, callers' tokens, and the catalogue."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oslo_context.context import RequestContext
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

import imagebroker
from imagebroker.exceptions import ConfigError, NotAuthorized
from tests.plugins.swift.conftest import Container
from tests.plugins.swift.test_identity import backend, findings
from tests.servers.fixtures import require
from tests.servers.openstack import OpenStack
from tests.servers.swift import missing
from tests.servers.swift_keystone import SwiftWithKeystone

DATA = bytes(range(256)) * 4096 * 3


@pytest.fixture(scope="module")
def server(openstack: OpenStack) -> Iterator[SwiftWithKeystone]:
    require(missing())
    with SwiftWithKeystone(openstack) as server:
        yield server


@pytest.fixture
def container(
    server: SwiftWithKeystone, make_broker: Callable[..., imagebroker.Broker]
) -> Container:
    return Container(server, make_broker)


def network(container: Container) -> imagebroker.Broker:
    """Keystone's catalogue may name any address: this one is allowed."""
    return container.broker(allowed_networks="127.0.0.0/8")


def test_an_image_is_stored_listed_downloaded_and_removed(
    container: Container, tmp_path: Path
) -> None:
    broker = network(container)
    image = broker.create(None, {"name": "disk", "tags": ["gold"]}, DATA)
    assert_that([each.ref for each in broker.get_all(None)], Equals([image.ref]))
    done = broker.download(None, image.ref, tmp_path / "disk")
    assert_that(done.evidence["sha256"], Equals(hashlib.sha256(DATA).hexdigest()))
    broker.delete(None, image.ref)
    assert_that(container.segment_names(), Equals([]))


def test_a_caller_has_the_account_of_the_callers_project(
    container: Container, openstack: OpenStack
) -> None:
    """Found in the catalogue that Keystone shows for the token, or in that of the context."""
    broker = network(container)
    ref = broker.create(None, {"name": "disk"}, DATA).ref
    red, blue = (RequestContext(auth_token=openstack.token(name)) for name in ("red", "blue"))
    assert_that(broker.get(red, ref).size, Equals(len(DATA)))
    with pytest.raises(imagebroker.ImageNotFound):
        broker.get(blue, ref)  # the account of blue has no such container
    url = container.user.account_url
    catalogue = [{"type": "object-store", "endpoints": [{"interface": "public", "url": url}]}]
    named = RequestContext(auth_token=openstack.token("blue"))
    named.service_catalog = catalogue  # as the contexts of services have it
    with pytest.raises(NotAuthorized):
        broker.get(named, ref)
    with pytest.raises(NotAuthorized):
        broker.get(RequestContext(auth_token="canary-of-no-token"), ref)


def test_check_logs_in(container: Container) -> None:
    options = container.server.swift_options(create_in=container.name)
    assert_that(findings(backend(**options))[0], Contains(container.user.account_url))
    with pytest.raises(NotAuthorized) as refused:
        findings(backend(**{**options, "password": "canary-wrong"}))
    assert_that(refused.value.hint, Contains("password"))
    with pytest.raises(ConfigError) as unknown:
        findings(backend(**{**options, "region_name": "nowhere"}))
    assert_that(unknown.value.hint, Contains("region_name"))
