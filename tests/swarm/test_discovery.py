"""Hosts find each other by a list, by names, or in a directory that they share."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength

from imagebroker.swarm.discovery import Discovery, register_in
from imagebroker.swarm.start import Start
from tests.servers.nginx import Nginx
from tests.swarm.fleet import Fleet, fleet, needs_libtorrent, published

__all__ = ["fleet"]
TOPIC = "ab" * 32
MIB = 1024 * 1024


def found(**given: Any) -> set[tuple[str, int]]:
    fields: dict[str, Any] = {
        "topic": TOPIC, "size": 1, "first": 0, "opening": 0, "spool": "", "address": "10.0.0.1",
        "ports": [], "members": [], "rendezvous": [], "ca": "", "certificate": "", "key": "",
    }  # fmt: skip
    local = SimpleNamespace(start=Start(**fields | given), port=7881)  # the rest needs libtorrent

    async def find() -> set[tuple[str, int]]:
        return await Discovery(cast(Any, local)).found()

    return asyncio.run(find())


def test_a_name_stands_for_all_addresses_that_it_leads_to() -> None:
    at = found(members=[("localhost", 7881), ("10.0.0.2", 99)])
    assert_that(at, Contains(("127.0.0.1", 7881)))
    assert_that(at, Contains(("10.0.0.2", 99)))


def test_a_name_that_leads_nowhere_costs_nobody_else() -> None:
    at = found(members=[("no.such.host.invalid", 1), ("10.0.0.2", 2)])
    assert_that(at, Equals({("10.0.0.2", 2)}))


def test_hosts_that_share_a_directory_find_each_other(tmp_path: Path) -> None:
    assert_that(register_in(tmp_path, TOPIC, ("10.0.0.1", 7881)), Equals(set()))
    assert_that(register_in(tmp_path, TOPIC, ("fd00::2", 7882)), Equals({("10.0.0.1", 7881)}))
    assert_that(register_in(tmp_path, "cd" * 32, ("10.0.0.3", 7881)), Equals(set()))
    at = found(directory=str(tmp_path), address="10.0.0.4")
    assert_that(at, Equals({("10.0.0.1", 7881), ("fd00::2", 7882)}))


def test_who_has_not_been_there_lately_is_not_named_and_removed_in_time(tmp_path: Path) -> None:
    register_in(tmp_path, TOPIC, ("10.0.0.1", 1))
    register_in(tmp_path, TOPIC, ("10.0.0.2", 2))
    (tmp_path / TOPIC / "something else").write_bytes(b"")
    for name, age in (("10.0.0.1_1", 60), ("10.0.0.2_2", 3600)):
        os.utime(tmp_path / TOPIC / name, (time.time() - age,) * 2)
    assert_that(register_in(tmp_path, TOPIC, ("10.0.0.3", 3)), Equals(set()))
    left = sorted(os.listdir(tmp_path / TOPIC))
    assert_that(left, Equals(["10.0.0.1_1", "10.0.0.3_3", "something else"]))


def test_a_directory_that_is_not_there_costs_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    at = found(directory=str(tmp_path / "file"), members=[("10.0.0.2", 2)])
    assert_that(at, Equals({("10.0.0.2", 2)}))


@pytest.fixture
def rate() -> int:
    return 2 * MIB


@needs_libtorrent
@pytest.mark.parametrize("fleet", [3], indirect=True)
def test_a_fleet_in_two_racks_that_shares_nothing_but_a_directory(
    fleet: Fleet, nginx: Nginx, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    for host, rack in zip(fleet.hosts, ("one", "one", "two"), strict=True):
        host.configure(f"swarm_members_dir = {shared}", f"swarm_rack = {rack}",
                       "swarm_download_limit = 20M", "swarm_backend_limit = 20M")  # fmt: skip
    _, checksum = published(nginx.root, "image.raw", 8 * MIB)
    for host in fleet.hosts:
        host.download(nginx.url("image.raw", prefix="slow"), checksum)
    for host in fleet.hosts:
        assert_that(host.wait(), Equals(0), host.output)
        assert_that(host.output, Contains("came from others"))
        got = hashlib.sha256(host.image.read_bytes()).hexdigest()
        assert_that(f"sha256:{got}", Equals(checksum))
    assert_that(list(shared.iterdir()), HasLength(1))
