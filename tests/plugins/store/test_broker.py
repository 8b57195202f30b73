"""The store through the broker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is, MatchesStructure

import imagebroker
from imagebroker.exceptions import Conflict, ImageNotFound, UploadFailed, VerificationError
from tests.plugins.store.store import ALICE, DATA, ID, SHA256, failing


@pytest.fixture
def broker(make_broker: Callable[[str], imagebroker.Broker], tmp_path: Path) -> Any:
    return make_broker(
        f"""
        [imagebroker]
        enabled_schemes = file
        [backend:file]
        store_dir = {tmp_path}/store
        [backend:file:other]
        store_dir = {tmp_path}/other
        """
    )


def test_an_image_goes_through_its_life(broker: Any, tmp_path: Path) -> None:
    info = {"name": "debian", "tags": ["a"], "properties": {"os": "linux"}}
    image = broker.create(ALICE, info, iter([DATA]))
    assert_that(broker.get(ALICE, image.id), Equals(image))
    found = list(broker.get_all(ALICE, filters={"property-os": "linux"}))
    assert_that(found, Equals([image]))
    download = broker.download(ALICE, image.ref, tmp_path / "dest")
    assert_that((tmp_path / "dest").read_bytes(), Equals(DATA))
    assert_that(download.evidence["sha256"], Equals(SHA256))
    with broker.open(ALICE, image.id) as reader:
        assert_that((reader.size, reader.read()), Equals((len(DATA), DATA)))
    broker.update(ALICE, image.id, {"name": "renamed"}, if_version=image.version)
    with pytest.raises(Conflict):
        broker.update(ALICE, image.id, {"name": "x"}, if_version="sha256:other")
    copy = broker.copy(ALICE, image.id, backend="file:other")
    assert_that(copy, MatchesStructure.byEquality(name="renamed", checksums=image.checksums))
    assert_that(copy.ref, Equals(f"file:other:{copy.id}"))
    broker.delete(ALICE, image.id)
    assert_that(broker.get(ALICE, image.id).deleted, Is(True))
    with pytest.raises(ImageNotFound):
        broker.delete(ALICE, image.id)


def test_damaged_bits_of_the_same_size_are_found_by_a_download(broker: Any, tmp_path: Path) -> None:
    image = broker.create(None, {}, DATA)
    bits = tmp_path / "store" / "images" / image.id
    bits.write_bytes(DATA[:-1] + b"x")
    with pytest.raises(VerificationError):
        broker.download(None, image.id, tmp_path / "dest")
    assert_that((tmp_path / "dest").exists(), Is(False))


def test_failing_data_reaches_the_caller_as_such(broker: Any) -> None:
    with pytest.raises(UploadFailed, match="the disk of the caller") as caught:
        broker.create(None, {"id": ID}, failing(150_000))
    assert_that(caught.value.image_id, Is(None))
    with pytest.raises(ImageNotFound):
        broker.get(None, ID)
