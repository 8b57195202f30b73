"""Glance with its images in Ceph, the real ones: its locations are read from the cluster."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, LessThan

import imagebroker
from imagebroker.exceptions import Conflict
from tests.servers.ceph import Ceph, modules
from tests.servers.openstack import OpenStack

MIB = 1024 * 1024
#: Two objects of Ceph, a hole, and a bit.
DATA = os.urandom(9 * MIB) + bytes(24 * MIB) + os.urandom(5000)
NEW = {"disk_format": "raw", "container_format": "bare"}


class Cloud:
    """A Glance whose images are in a cluster, and brokers for it."""

    def __init__(
        self, openstack: OpenStack, ceph: Ceph, make: Callable[..., imagebroker.Broker]
    ) -> None:
        self.openstack, self.ceph, self._make = openstack, ceph, make
        options = ceph.options()
        conf = ceph.folder / "glance.conf"
        conf.write_text(
            Path(options["ceph_conf"]).read_text()
            + f"[client.{ceph.user}]\nkeyring = {options['keyring']}\n"
        )
        self.endpoint = openstack.ceph_endpoint(
            f"rbd_store_pool = {ceph.pool}\nrbd_store_user = {ceph.user}\n"
            f"rbd_store_ceph_conf = {conf}\nrados_connect_timeout = 30\n",
            modules() or "",
        )
        self.made: list[str] = []

    def broker(self, *, direct: bool = True) -> imagebroker.Broker:
        schemes = "direct_url_schemes = rbd\n" if direct else ""
        login = _lines(self.openstack.auth_options("red"))
        return self._make(
            "[imagebroker]\nenabled_schemes = glance, rbd, file\ndefault_backend = glance\n"
            f"retries = 0\n{schemes}[backend:glance]\n{login}endpoint = {self.endpoint}/\n"
            f"[backend:rbd]\n{_lines(self.ceph.options())}"
        )

    def image(self, data: bytes = DATA) -> imagebroker.Image:
        made = self.broker().create(None, {"name": "on ceph", **NEW}, data)
        self.made.append(str(made.id))
        return made

    def remove(self) -> None:
        """The other Glance services know no store in Ceph."""
        for image_id in self.made:
            url = f"{self.endpoint}/v2/images/{image_id}"
            self.openstack.call("red", "DELETE", url)


def _lines(options: dict[str, Any]) -> str:
    return "".join(f"{name} = {value}\n" for name, value in options.items())


@pytest.fixture
def cloud(
    openstack: OpenStack, ceph: Ceph, make_broker: Callable[..., imagebroker.Broker]
) -> Iterator[Cloud]:
    made = Cloud(openstack, ceph, make_broker)
    yield made
    made.remove()


def location(cloud: Cloud, image: imagebroker.Image) -> str:
    found = cloud.broker().get(None, image.ref, include_locations=True)
    (place,) = found.locations
    return place.url


def test_an_image_is_read_from_the_cluster_and_verified_as_glances(
    cloud: Cloud, tmp_path: Path
) -> None:
    image = cloud.image()
    place = location(cloud, image)
    expected = f"rbd://{cloud.ceph.fsid}/{cloud.ceph.pool}/{image.id}/snap"
    assert_that(place, Equals(expected))
    done = cloud.broker().download(None, image.ref, tmp_path / "disk")
    assert_that((tmp_path / "disk").read_bytes() == DATA, Is(True))
    assert_that((done.via, done.source), Equals(("location", place)))
    assert_that(done.evidence["sha512"], Equals(image.checksums["sha512"]))
    assert_that((tmp_path / "disk").stat().st_blocks * 512, LessThan(12 * MIB))


def test_without_permission_for_locations_glance_is_asked(cloud: Cloud) -> None:
    image, found = cloud.image(), io.BytesIO()
    done = cloud.broker(direct=False).download(None, image.ref, found)
    assert_that(found.getvalue() == DATA, Is(True))
    assert_that((done.via, done.source), Equals(("backend", image.ref)))


def test_where_the_cluster_has_lost_the_image_the_error_is_glances(cloud: Cloud) -> None:
    """The location is tried, then Glance, which reads the same cluster."""
    image = cloud.image(DATA[:5000])
    cloud.ceph.remove(str(image.id))
    cloud.made.clear()
    with pytest.raises(imagebroker.ImageBrokerError):
        cloud.broker().download(None, image.ref, io.BytesIO())


def test_an_image_with_a_clone_is_not_deleted(cloud: Cloud) -> None:
    """As the disk of an instance of Nova is one."""
    import rbd

    image = cloud.image(DATA[:5000])
    clone = f"clone-of-{image.id}"
    with cloud.ceph.opened() as pool:
        rbd.RBD().clone(pool, str(image.id), "snap", pool, clone)
    try:
        with pytest.raises(Conflict) as caught:
            cloud.broker().delete(None, image.ref)
        assert_that(str(caught.value), Contains("in use"))
    finally:
        cloud.ceph.remove(clone)


def test_a_copy_into_the_pool_of_its_location_has_the_bytes_and_the_record(cloud: Cloud) -> None:
    image, found = cloud.image(), io.BytesIO()
    name = f"copy-of-{image.id}"
    made = cloud.broker().copy(None, image.ref, {"name": name}, backend="rbd")
    try:
        cloud.broker().download(None, made.ref, found)
        assert_that(found.getvalue() == DATA, Is(True))
        assert_that(made.disk_format, Equals("raw"))
    finally:
        cloud.ceph.remove(name)
