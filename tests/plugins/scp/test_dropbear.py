"""The scp backend and dropbear, whose ssh is a small one and whose packets are smaller."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is, LessThan

import imagebroker
from tests.plugins.scp_peers import configuration, fetched, make_backend
from tests.servers.dropbear import Dropbear
from tests.servers.images import random_file
from tests.servers.tcp import Fault, TcpProxy

MIB = 1 << 20
Make = Callable[..., imagebroker.Broker]


@pytest.fixture
def broker(make_broker: Make, dropbear: Dropbear, tmp_path: Path) -> imagebroker.Broker:
    """One with a directory on the server."""
    (tmp_path / "images").mkdir()
    return make_broker(
        configuration(
            known_hosts=dropbear.known_hosts,
            identity_file=dropbear.keys["ed25519"],
            endpoint=dropbear.url(tmp_path / "images") + "/",
        )
    )


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_keys_of_each_kind_log_in(dropbear: Dropbear, tmp_path: Path, kind: str) -> None:
    image = random_file(tmp_path / "image", 3 * MIB + 17)
    backend = make_backend(
        known_hosts=str(dropbear.known_hosts), identity_file=str(dropbear.keys[kind])
    )
    assert_that(fetched(dropbear.url(image), backend) == image.read_bytes(), Is(True))


def test_images_are_downloaded_created_listed_and_deleted(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    content = random_file(tmp_path / "content", 20 * MIB + 1).read_bytes()
    created = broker.create(None, {"name": "new.raw"}, content, backend="scp")
    broker.create(None, {"name": "other.raw"}, b"data", backend="scp")
    names = {(image.name, image.size) for image in broker.get_all(None, backend="scp")}
    assert_that(names, Equals({("new.raw", 20 * MIB + 1), ("other.raw", 4)}))
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    broker.download(None, created.ref, tmp_path / "copy", checksum=checksum)
    assert_that((tmp_path / "copy").read_bytes() == content, Is(True))
    broker.delete(None, created.ref)
    assert_that(
        [image.name for image in broker.get_all(None, backend="scp")], Equals(["other.raw"])
    )


def test_a_broken_connection_costs_the_missing_bytes_only(
    make_broker: Make, dropbear: Dropbear, tmp_path: Path
) -> None:
    path = random_file(tmp_path / "image", 16 * MIB)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known = tmp_path / "known"
    key = dropbear.known_hosts.read_text().split(None, 1)[1]
    known.write_text(f"[127.0.0.1]:* {key}")
    identity = dropbear.keys["ecdsa"]
    broker = make_broker(configuration(known_hosts=known, identity_file=identity))
    with TcpProxy("127.0.0.1", dropbear.port, Fault(cut_after=10 * MIB), only=0) as proxy:
        url = f"scp://{dropbear.user}@127.0.0.1:{proxy.port}{path}#sha256={digest}"
        broker.download(None, url, tmp_path / "copy")
        assert_that(proxy.connections, Equals(2))
        # All again would be 26 MiB; up to 6 MiB had arrived, but were not processed yet.
        assert_that(proxy.received, LessThan(23 * MIB))
    assert_that((tmp_path / "copy").read_bytes() == path.read_bytes(), Is(True))


def test_a_missing_file_is_not_found(dropbear: Dropbear, tmp_path: Path) -> None:
    backend = make_backend(
        known_hosts=str(dropbear.known_hosts), identity_file=str(dropbear.keys["rsa"])
    )
    with pytest.raises(imagebroker.ImageNotFound):
        fetched(dropbear.url(tmp_path / "none"), backend)
