"""`imagebroker swarm serve` passes on what is in the cache, to hosts that may have it."""

from __future__ import annotations

import hashlib

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, LessThan, Not

from tests.servers.nginx import Nginx
from tests.servers.nginx import missing as missing_nginx
from tests.swarm.fleet import Fleet, Host, fleet, intruded, needs_libtorrent, published

__all__ = ["fleet"]
pytestmark = [
    needs_libtorrent,
    pytest.mark.skipif(missing_nginx() is not None, reason=str(missing_nginx())),
    pytest.mark.parametrize("fleet", [2], indirect=True),
]
MIB = 1024 * 1024


def loaded(host: Host, url: str, checksum: str) -> None:
    """Have the image in this host's cache."""
    host.configure(f"cache_dir = {host.directory / 'cache'}", "swarm_linger = 2")
    host.command("cache", "load", url, "--checksum", checksum)
    assert_that(host.wait(), Equals(0), host.output)


def serving(host: Host) -> None:
    host.command("swarm", "serve")
    host.read_until("serving at")


@pytest.mark.parametrize("found_by", ["list", "rendezvous"])
def test_a_host_takes_from_the_cache_of_another_what_its_backend_is_slow_to_send(
    fleet: Fleet, nginx: Nginx, found_by: str
) -> None:
    keeper, host = fleet.hosts
    if found_by == "list":
        fleet.with_list()
        fleet.options = [f"swarm_members = {keeper.address}:7889"]
    else:
        fleet.with_rendezvous()
    data, checksum = published(nginx.root, "image.raw", 24 * MIB)
    loaded(keeper, nginx.url("image.raw"), checksum)
    before = sum(each.sent for each in nginx.requests())
    serving(keeper)
    host.configure()
    host.download(nginx.url("image.raw", prefix="slow"), checksum)
    assert_that(host.wait(), Equals(0), host.output)
    assert_that(host.image.read_bytes() == data, Equals(True))
    assert_that(host.output, Contains("came from others"))
    read = sum(each.sent for each in nginx.requests()) - before
    assert_that(read, LessThan(len(data)))


def test_who_proves_nothing_gets_no_byte_of_the_cache(fleet: Fleet, nginx: Nginx) -> None:
    fleet.with_list()
    keeper, other = fleet.hosts
    data, checksum = published(nginx.root, "image.raw", 4 * MIB)
    loaded(keeper, nginx.url("image.raw"), checksum)
    serving(keeper)
    # Who calls first has it prepared, and may have left before it is.
    found = intruded(keeper, other, data, checksum, "wrong", port=7889)
    keeper.read_until("serving sha256:")
    if (
        "challenge" not in found["told"]
    ):  # who was asked, and did not prove it, is asked nothing more
        assert_that(found["bytes"], Equals(0))
        found = intruded(keeper, other, data, checksum, "wrong", port=7889)
    assert_that(found["told"], Contains("challenge"), found)
    assert_that(found["told"], Not(Contains("chunk")))
    assert_that(found["bytes"], Equals(0))


def test_what_is_damaged_in_the_cache_is_not_served(fleet: Fleet, nginx: Nginx) -> None:
    fleet.with_list()
    keeper, other = fleet.hosts
    data, checksum = published(nginx.root, "image.raw", 4 * MIB)
    loaded(keeper, nginx.url("image.raw"), checksum)
    digest = hashlib.sha256(data).hexdigest()
    with (keeper.directory / "cache" / f"sha256-{digest}").open("r+b") as file:
        file.seek(3 * MIB)
        file.write(b"other bytes")
    serving(keeper)
    found = intruded(keeper, other, data, checksum, "right", port=7889)
    assert_that(found["bytes"], Equals(0))
    keeper.read_until("is damaged, and not served")
