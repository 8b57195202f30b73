"""Images of the real Glance that have no digest, or none that proves anything."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

import imagebroker
from imagebroker import PolicyViolation, VerificationError
from imagebroker.exceptions import ChecksumMissing
from tests.cli.conftest import Shell
from tests.servers.nginx import Nginx
from tests.servers.openstack import OpenStack

DATA = os.urandom(300_000)
MakeBroker = Callable[[str], imagebroker.Broker]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture(scope="module")
def by_location(openstack: OpenStack, nginx: Nginx) -> str:
    """An image whose bytes were registered by their URL: Glance has never read them."""
    (nginx.root / "by-location.img").write_bytes(DATA)
    image_id = openstack.create_image(None)
    place = {"url": nginx.url("by-location.img"), "metadata": {}}
    openstack.call(
        "red", "PATCH", f"{openstack.locations_endpoint()}/v2/images/{image_id}",
        [{"op": "add", "path": "/locations/-", "value": place}],
    )  # fmt: skip
    return image_id


@pytest.fixture(scope="module")
def md5_only(openstack: OpenStack) -> str:
    """An image as Glance stored them before its version 17 (Rocky)."""
    return recorded(openstack, "os_hash_algo = NULL, os_hash_value = NULL")


@pytest.fixture(scope="module")
def never_hashed(openstack: OpenStack) -> str:
    """An image that something wrote into the store beside Glance: only its size is known."""
    return recorded(openstack, "os_hash_algo = NULL, os_hash_value = NULL, checksum = NULL")


@pytest.fixture(scope="module")
def weakly_hashed(openstack: OpenStack) -> str:
    """An image of a Glance whose `hashing_algorithm` is sha1."""
    sha1 = hashlib.sha1(DATA, usedforsecurity=False).hexdigest()
    return recorded(openstack, f"os_hash_algo = 'sha1', os_hash_value = '{sha1}'")


def recorded(openstack: OpenStack, fields: str) -> str:
    """A stored image with these columns of Glance's table."""
    image_id = openstack.create_image(DATA)
    database = openstack.directory / "glance" / "glance.db"
    with sqlite3.connect(database, timeout=30) as db:
        db.execute(f"UPDATE images SET {fields} WHERE id = ?", (image_id,))
    db.close()
    return image_id


def config(openstack: OpenStack, core: str = "", glance: str = "") -> str:
    options = "\n".join(f"{name} = {v}" for name, v in openstack.auth_options("red").items())
    return (
        "[imagebroker]\nenabled_schemes = glance, file\ndefault_backend = glance\n"
        f"{core}\n[backend:glance]\n{options}\nallowed_networks = 127.0.0.0/8\n"
        f"endpoint = {openstack.locations_endpoint()}/\n{glance}\n"
    )


def test_the_command_names_its_option_and_that_option_is_enough(
    openstack: OpenStack, by_location: str, shell: Shell
) -> None:
    shell.config(config(openstack))
    refused = shell.run("download", by_location, "image")
    assert_that((refused.status, "--no-require-checksum" in refused.stderr), Equals((6, True)))
    done = shell.run("download", by_location, "image", "--no-require-checksum")
    assert_that((done.status, (shell.work / "image").read_bytes() == DATA), Equals((0, True)))


@pytest.mark.parametrize("kind", ["by_location", "md5_only", "never_hashed", "weakly_hashed"])
def test_download_open_and_copy_take_it_where_the_call_says_so(
    openstack: OpenStack,
    make_broker: MakeBroker,
    tmp_path: Path,
    kind: str,
    request: pytest.FixtureRequest,
) -> None:
    image_id = request.getfixturevalue(kind)
    store = f"[backend:file]\nstore_dir = {tmp_path}/store\n"
    broker = make_broker(config(openstack, glance=store))
    calls: dict[str, Callable[..., bytes]] = {
        "download": lambda **demand: stored(broker, image_id, tmp_path / "image", **demand),
        "open": lambda **demand: opened(broker, image_id, **demand),
        "copy": lambda **demand: opened(
            broker, broker.copy(None, image_id, backend="file", **demand).ref
        ),
    }
    for call in calls.values():
        with pytest.raises(ChecksumMissing):
            call()
        assert_that(call(require_checksum=False) == DATA, Is(True))


def stored(broker: imagebroker.Broker, image_id: str, path: Path, **demand: bool) -> bytes:
    broker.download(None, image_id, path, **demand)
    return path.read_bytes()


def opened(broker: imagebroker.Broker, ref: str, **demand: bool) -> bytes:
    with broker.open(None, ref, **demand) as reader:
        return reader.read()


def test_md5_is_enough_where_the_deployer_allows_it_and_has_to_hold(
    openstack: OpenStack, md5_only: str, make_broker: MakeBroker, tmp_path: Path
) -> None:
    broker = make_broker(config(openstack, core="allow_md5 = true"))
    done = broker.download(None, md5_only, tmp_path / "image")
    assert_that(done.evidence["md5"], Equals(hashlib.md5(DATA, usedforsecurity=False).hexdigest()))
    file = openstack.stored_file(md5_only)
    file.write_bytes(DATA[:-1] + bytes([DATA[-1] ^ 1]))
    try:
        with pytest.raises(VerificationError):
            broker.download(None, md5_only, tmp_path / "image")
    finally:
        file.write_bytes(DATA)


@pytest.mark.promise("security-26")
def test_what_the_deployer_has_written_down_is_not_switched_off_by_a_call(
    openstack: OpenStack, by_location: str, make_broker: MakeBroker, tmp_path: Path
) -> None:
    broker = make_broker(config(openstack, glance="require_checksum = true"))
    with pytest.raises(PolicyViolation) as caught:
        broker.download(None, by_location, tmp_path / "image", require_checksum=False)
    assert_that(caught.value.where, Contains("require_checksum"))
    digest = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
    broker.download(None, by_location, tmp_path / "image", checksum=digest)


def test_a_call_may_demand_more_than_the_configuration(
    openstack: OpenStack, by_location: str, make_broker: MakeBroker, tmp_path: Path
) -> None:
    broker = make_broker(config(openstack, glance="require_checksum = false"))
    broker.download(None, by_location, tmp_path / "image")
    with pytest.raises(ChecksumMissing):
        broker.download(None, by_location, tmp_path / "image", require_checksum=True)
