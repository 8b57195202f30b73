"""Hosts that download the same image at the same time get it from the backend once, together."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, LessThan, MatchesRegex, Not

from tests.bounds import HANGS
from tests.servers.nginx import Nginx
from tests.servers.nginx import missing as missing_nginx
from tests.swarm.fleet import Fleet, Host, fleet, needs_libtorrent, published

__all__ = ["fleet"]
pytestmark = [
    needs_libtorrent,
    pytest.mark.skipif(missing_nginx() is not None, reason=str(missing_nginx())),
]
MIB = 1024 * 1024


def downloaded(fleet: Fleet, url: str, checksum: str) -> None:
    for host in fleet.hosts:
        host.download(url, checksum)
    for host in fleet.hosts:
        assert_that(host.wait(), Equals(0), host.output)


def wait_until(holds: Callable[[], bool]) -> None:
    ends = monotonic() + HANGS
    while not holds():
        assert monotonic() < ends, "it never came true"
        sleep(0.05)


def end_lingering(host: Host) -> None:
    """End the process that passes an image on."""
    lingering = [
        int(each.name)
        for each in Path("/proc").iterdir()
        if each.name.isdigit() and holds_open(each, str(host.directory / "spool"))
    ]
    assert_that(lingering, HasLength(1))
    os.kill(lingering[0], signal.SIGKILL)


def holds_open(process: Path, directory: str) -> bool:
    try:
        return any(os.readlink(fd).startswith(directory) for fd in (process / "fd").iterdir())
    except OSError:
        return False  # another user's, or gone


def right(fleet: Fleet, checksum: str) -> None:
    for host in fleet.hosts:
        found = hashlib.sha256(host.image.read_bytes()).hexdigest()
        assert_that(f"sha256:{found}", Equals(checksum))


def sent(nginx: Nginx) -> int:
    return sum(each.sent for each in nginx.requests())


def test_four_hosts_ask_the_backend_for_less_than_four_images(fleet: Fleet, nginx: Nginx) -> None:
    fleet.with_rendezvous()
    data, checksum = published(nginx.root, "image.raw", 24 * MIB + 12345)
    downloaded(fleet, nginx.url("image.raw", prefix="slow"), checksum)
    right(fleet, checksum)
    # How much less depends on when each process gets a processor.
    outputs = [host.output for host in fleet.hosts]
    assert_that(sent(nginx), LessThan(4 * len(data)), "\n".join(outputs))
    assert_that([each for each in outputs if "came from others" in each], Not(Equals([])), outputs)


@pytest.mark.parametrize("fleet", [1], indirect=True)
def test_a_host_that_is_alone_reads_each_byte_once(fleet: Fleet, nginx: Nginx) -> None:
    fleet.with_list()
    data, checksum = published(nginx.root, "image.raw", 8 * MIB + 12345)
    downloaded(fleet, nginx.url("image.raw"), checksum)
    right(fleet, checksum)
    large = [each.sent for each in nginx.requests() if each.sent > 1]  # not those for the size
    assert_that(sum(large), Equals(len(data)))
    assert_that(len(large), LessThan(4))


@pytest.mark.parametrize("fleet", [1], indirect=True)
def test_without_any_digest_nobody_is_asked(fleet: Fleet, nginx: Nginx) -> None:
    fleet.with_list()
    published(nginx.root, "image.raw", 2 * MIB)
    host = fleet.hosts[0].configure()
    import subprocess

    from tests.swarm.fleet import COMMAND

    done = subprocess.run(
        [*COMMAND, "--config-file", host.config, "-vv", "download", nginx.url("image.raw"),
         host.image],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert_that(done.stderr, Contains("via=backend"))
    assert_that(host.spooled, Equals([]))


@pytest.mark.parametrize("fleet", [3], indirect=True)
def test_a_rendezvous_that_dies_costs_nothing_but_the_swarm(fleet: Fleet, nginx: Nginx) -> None:
    fleet.with_rendezvous()
    _, checksum = published(nginx.root, "image.raw", 8 * MIB)
    assert fleet.rendezvous is not None
    fleet.rendezvous.kill()
    downloaded(fleet, nginx.url("image.raw"), checksum)
    right(fleet, checksum)


def test_hosts_that_are_killed_are_done_without(fleet: Fleet, nginx: Nginx) -> None:
    fleet.with_list()
    _, checksum = published(nginx.root, "image.raw", 24 * MIB)
    url = nginx.url("image.raw", prefix="slow")
    for host in fleet.hosts:
        host.download(url, checksum)
    dead, *alive = fleet.hosts
    dead.read_until("may read the image")
    dead.end()
    for host in alive:
        assert_that(host.wait(), Equals(0), host.output)
    assert_that(dead.image.exists(), Equals(False))
    fleet.hosts = alive
    right(fleet, checksum)


def test_a_host_whose_backend_has_other_bytes_spoils_nothing(fleet: Fleet, nginx: Nginx) -> None:
    fleet.with_list()
    data, checksum = published(nginx.root, "image.raw", 8 * MIB)
    wrong = bytearray(data)
    wrong[::65536] = bytes(byte ^ 1 for byte in data[::65536])  # too little for a sample to show
    (nginx.root / "wrong.raw").write_bytes(wrong)
    liar, *others = fleet.hosts
    liar.download(nginx.url("wrong.raw", prefix="slow"), checksum)
    for host in others:
        host.download(nginx.url("image.raw", prefix="slow"), checksum)
    for host in others:
        assert_that(host.wait(), Equals(0), host.output)
        if "to find the wrong bytes" in host.output:  # it came from there, or from who was misled
            wrong = r"has other bytes in chunk \d+|chunk \d+ is wrong, and"
            assert_that(host.output, MatchesRegex(f"(?s).*({wrong})"))
    assert_that(liar.wait(), Not(Equals(0)))
    assert_that(liar.image.exists(), Equals(False))
    fleet.hosts = others
    right(fleet, checksum)


@pytest.mark.parametrize("fleet", [1], indirect=True)
def test_who_waits_for_the_output_does_not_wait_for_other_hosts(fleet: Fleet, nginx: Nginx) -> None:
    fleet.with_list()
    _, checksum = published(nginx.root, "image.raw", 2 * MIB)
    host = fleet.hosts[0].configure("swarm_linger = 3600")
    host.download(nginx.url("image.raw"), checksum)
    assert_that(host.wait(), Equals(0), host.output)  # to the end of its output
    assert_that(host.spooled, HasLength(1))
    end_lingering(host)


@pytest.mark.parametrize("fleet", [1], indirect=True)
def test_a_download_that_is_killed_leaves_no_process_and_no_file(
    fleet: Fleet, nginx: Nginx
) -> None:
    fleet.with_list()
    _, checksum = published(nginx.root, "image.raw", 24 * MIB)
    host = fleet.hosts[0]
    host.download(nginx.url("image.raw", prefix="slow"), checksum)
    host.read_until("listening at")
    host.end()
    wait_until(lambda: host.spooled == [])


def test_what_a_slow_host_reads_others_read_before_it(fleet: Fleet, nginx: Nginx) -> None:
    fleet.with_list()
    _, checksum = published(nginx.root, "image.raw", 16 * MIB)
    slow, *others = fleet.hosts
    slow.configure(f"swarm_backend_limit = {MIB // 32}")
    url = nginx.url("image.raw", prefix="slow")
    slow.download(url, checksum)
    slow.read_until("listening at")  # and reads its first chunk, of which the others have nothing
    for host in others:
        host.download(url, checksum)
    for host in fleet.hosts:
        assert_that(host.wait(), Equals(0), host.output)
    right(fleet, checksum)
    assert_that(slow.output, Contains("which read several times faster"))
    for host in others:
        assert_that(host.output, Not(Contains("which read several times faster")))
