"""What one tenant has fetched never comes to another who may not read it: the real Glance, and http.

The campaign `tenants` of the fault laboratory tries every door with every means; these are the
ones that somebody would try first.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

from tests.faults.doors import DOORS
from tests.faults.tenants import ENTITLED, NAMED, STATES, Point, Tenants
from tests.servers import openstack
from tests.servers.fixtures import require


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    require(openstack.missing())
    with Tenants(tmp_path_factory.mktemp("tenants")) as campaign:
        yield campaign


@pytest.mark.promise("two-tenants")
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("door", ["cache", "running transfer", "part file, complete", "location"])
def test_whom_glance_refuses_the_data_gets_no_byte(tenants: Tenants, door: str, state: str) -> None:
    assert_that(tenants.attempt(Point(door, "glance", state, "checksum")), Equals([]))


@pytest.mark.promise("two-tenants")
@pytest.mark.parametrize("named", NAMED)
@pytest.mark.parametrize("door", ["cache", "cache load", "running transfer", "part file"])
def test_a_digest_that_a_caller_or_their_server_names_is_no_permission(
    tenants: Tenants, door: str, named: str
) -> None:
    for first in ("glance", "http"):
        point = Point(door, first, "own, same path", named, "everything")
        assert_that(tenants.attempt(point), Equals([]))


@pytest.mark.promise("two-tenants")
@pytest.mark.parametrize("means", ["unsigned", "wrong signature"])
def test_whoever_knows_the_url_but_has_no_signature_gets_no_byte(
    tenants: Tenants, means: str
) -> None:
    assert_that(tenants.attempt(Point("cache", "http", means, "pin")), Equals([]))


@pytest.mark.promise("two-tenants")
@pytest.mark.parametrize("door", DOORS)
def test_who_may_read_the_image_finds_each_door_open(tenants: Tenants, door: str) -> None:
    for who in ENTITLED[:3]:
        assert_that(tenants.attempt(Point(door, "glance", who, "checksum")), Equals([]))
    if DOORS[door].fill != "located":
        assert_that(tenants.attempt(Point(door, "http", ENTITLED[3], "checksum")), Equals([]))
