"""Whatever reads an image takes part in a swarm: the cache, a reader, a pipe, what is unpacked."""

from __future__ import annotations

import gzip
import hashlib
import sys
from collections.abc import Callable

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from tests.servers.nginx import Nginx
from tests.servers.nginx import missing as missing_nginx
from tests.swarm.fleet import Fleet, Host, fleet, needs_libtorrent, published

__all__ = ["fleet"]
pytestmark = [
    needs_libtorrent,
    pytest.mark.skipif(missing_nginx() is not None, reason=str(missing_nginx())),
    pytest.mark.parametrize("fleet", [2], indirect=True),
]
MIB = 1024 * 1024
#: Reads an image as a service does, and prints its digest.
READER = """
import hashlib, logging, sys, imagebroker
logging.basicConfig(level=logging.DEBUG)
config, ref, checksum = sys.argv[1:]
found = hashlib.sha256()
with imagebroker.Broker.from_config(config) as broker:
    with broker.open(None, ref, checksum=checksum) as reader:
        for chunk in reader:
            found.update(chunk)
print("read", found.hexdigest())
"""
Start = Callable[[Host, str, str], object]


def cached(host: Host, url: str, checksum: str) -> None:
    host.configure(f"cache_dir = {host.directory / 'cache'}")
    host.command("cache", "load", url, "--checksum", checksum)


def opened(host: Host, url: str, checksum: str) -> None:
    host.start([sys.executable, "-c", READER, host.config, url, checksum])


def piped(host: Host, url: str, checksum: str) -> None:
    command = '"$0" -m imagebroker --config-file "$1" -vv download "$2" - --checksum "$3" > "$4"'
    host.start(["sh", "-c", command, sys.executable, host.config, url, checksum, host.image])


def in_company(fleet: Fleet, nginx: Nginx, name: str, checksum: str, start: Start) -> Host:
    """Have another host download the same bytes, which it then passes on."""
    fleet.with_list()
    fleet.options.append("swarm_linger = 30")
    other, host = (each.configure() for each in fleet.hosts)
    other.download(nginx.url(name), checksum)
    assert_that(other.wait(), Equals(0), other.output)
    start(host, nginx.url(name, prefix="slow"), checksum)
    assert_that(host.wait(), Equals(0), host.output)
    assert_that(host.output, Contains("came from others"))
    return host


@pytest.mark.parametrize("start", [cached, opened, piped])
def test_it_takes_part(fleet: Fleet, nginx: Nginx, start: Start) -> None:
    data, checksum = published(nginx.root, "image.raw", 8 * MIB + 5)
    host = in_company(fleet, nginx, "image.raw", checksum, start)
    digest = hashlib.sha256(data).hexdigest()
    if start is cached:
        found = (host.directory / "cache" / f"sha256-{digest}").read_bytes()
    elif start is opened:
        assert_that(host.output, Contains(f"read {digest}"))
        return
    else:
        found = host.image.read_bytes()
    assert_that(found == data, Equals(True))


def test_what_is_unpacked_travels_packed(fleet: Fleet, nginx: Nginx) -> None:
    data, _ = published(nginx.root, "plain", 8 * MIB)
    packed = gzip.compress(data, 1)
    (nginx.root / "image.raw.gz").write_bytes(packed)
    checksum = f"sha256:{hashlib.sha256(packed).hexdigest()}"

    def unpacked(host: Host, url: str, checksum: str) -> None:
        host.command("download", url, host.image, "--checksum", checksum, "--decompress=gzip")

    other = fleet.hosts[0]
    host = in_company(fleet, nginx, "image.raw.gz", checksum, unpacked)
    assert_that(host.image.read_bytes() == data, Equals(True))
    assert_that(other.image.read_bytes() == packed, Equals(True))


def test_a_lie_costs_the_cache_one_more_reading_at_most(fleet: Fleet, nginx: Nginx) -> None:
    fleet.with_list()
    data, checksum = published(nginx.root, "image.raw", 8 * MIB)
    wrong = bytearray(data)
    # Not at the beginning, where both may read the same; too little for most samples to show.
    wrong[4 * MIB :: 65536] = bytes(byte ^ 1 for byte in data[4 * MIB :: 65536])
    (nginx.root / "wrong.raw").write_bytes(wrong)
    liar, host = fleet.hosts
    liar.download(nginx.url("wrong.raw", prefix="slow"), checksum)
    cached(host, nginx.url("image.raw", prefix="slow"), checksum)
    assert_that(host.wait(), Equals(0), host.output)
    liar.wait()
    either = "asking the backend itself, from the beginning", "has other bytes"
    if any(f"chunk {index} came from others" in host.output for index in range(4, 8)):
        assert_that([each in host.output for each in either], Contains(True), host.output)
    found = next((host.directory / "cache").glob("sha256-*")).read_bytes()
    assert_that(found == data, Equals(True))
