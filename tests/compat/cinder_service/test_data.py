"""Cinder's own code moves the bytes of volumes through the drop-in, with and without eventlet."""

from __future__ import annotations

from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

from tests.compat.cinder_service.conftest import Cinder
from tests.compat.service_process import ServiceError
from tests.servers.images import random_file
from tests.servers.mounts import loop_device
from tests.servers.openstack import OpenStack

DATA = bytes(range(256)) * 8192  # 2 MiB


def test_fetch_fills_a_proxy_of_an_open_file(
    concurrent_cinder: Cinder, openstack: OpenStack, tmp_path: Path
) -> None:
    original = random_file(tmp_path / "original", 3_000_000)
    image = openstack.create_image(original.read_bytes())
    for api in ("cinder", "ours"):
        concurrent_cinder.do("fetch", api=api, image=image, path=str(tmp_path / api))
        assert_that((tmp_path / api).read_bytes() == original.read_bytes(), Is(True))


def test_what_fetch_cannot_verify_leaves_no_file(
    concurrent_cinder: Cinder, openstack: OpenStack, tmp_path: Path
) -> None:
    image = openstack.create_image(bytes(1 << 16))
    openstack.stored_file(image).write_bytes(b"x" * (1 << 16))
    dest = tmp_path / "dest"
    with pytest.raises(ServiceError, match="ImageUnacceptable"):
        concurrent_cinder.do("fetch", api="ours", image=image, path=str(dest))
    assert_that(dest.exists(), Is(False))


@pytest.mark.parametrize("store", [None, "slow"])
def test_a_volume_is_uploaded_from_a_proxy_of_its_device(
    concurrent_cinder: Cinder, openstack: OpenStack, tmp_path: Path, store: str | None
) -> None:
    volume = random_file(tmp_path / "volume", 2_000_000)
    image = openstack.create_image(None)
    concurrent_cinder.do("upload", api="ours", image=image, path=str(volume), store=store)
    stored = openstack.stored_file(image, store or "fast")
    assert_that(stored.read_bytes() == volume.read_bytes(), Is(True))


def test_an_empty_file_becomes_an_empty_image_as_in_cinder(
    concurrent_cinder: Cinder, openstack: OpenStack, tmp_path: Path
) -> None:
    (tmp_path / "volume").touch()
    for api in ("cinder", "ours"):
        image = openstack.create_image(None)
        volume = str(tmp_path / "volume")
        concurrent_cinder.do("upload", api=api, image=image, path=volume, store=None)
        record = concurrent_cinder("cinder", "show", image)
        assert_that((record["status"], record["size"]), Equals(("active", 0)))


@pytest.mark.parametrize("concurrent_cinder", ["eventlet"], indirect=True)
def test_green_threads_download_side_by_side(
    concurrent_cinder: Cinder, openstack: OpenStack
) -> None:
    images = [openstack.create_image(bytes(100_000 + n)) for n in range(5)]
    sizes = concurrent_cinder.do("at_once", images=images)
    assert_that(sizes, Equals([100_000 + n for n in range(5)]))


def test_the_iterator_yields_the_whole_image(
    concurrent_cinder: Cinder, openstack: OpenStack
) -> None:
    image = openstack.create_image(b"some bytes")
    assert_that(bytes.fromhex(concurrent_cinder("ours", "download", image)), Equals(b"some bytes"))


def test_a_volume_that_is_a_device_is_filled_and_read_back(
    concurrent_cinder: Cinder, openstack: OpenStack, tmp_path: Path
) -> None:
    image = openstack.create_image(DATA)
    (tmp_path / "disk").write_bytes(b"\xa5" * (2 * len(DATA)))
    with loop_device(tmp_path / "disk") as device:
        concurrent_cinder.do("fetch_to_device", image=image, path=str(device))
        assert_that(device.read_bytes() == DATA + b"\xa5" * len(DATA), Is(True))


def test_damaged_content_leaves_a_device_that_does_not_boot(
    concurrent_cinder: Cinder, openstack: OpenStack, tmp_path: Path
) -> None:
    image = openstack.create_image(DATA)
    openstack.stored_file(image).write_bytes(DATA[::-1])
    (tmp_path / "disk").write_bytes(b"\xa5" * (2 * len(DATA)))
    with loop_device(tmp_path / "disk") as device:
        with pytest.raises(ServiceError, match="ImageUnacceptable"):
            concurrent_cinder.do("fetch_to_device", image=image, path=str(device))
        assert_that(device.read_bytes()[: 1 << 20] == bytes(1 << 20), Is(True))
