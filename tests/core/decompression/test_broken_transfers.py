"""A transfer that breaks, and a location that is bad, put no wrong byte into the content."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is, MatchesStructure

import imagebroker
from imagebroker.exceptions import ImageBrokerError, ImageChanged, TransferError
from tests.conftest import Scripted
from tests.core.decompression.packing import DATA, PACK, PACKED, UUID, damaged, sha256
from tests.scripted import IMAGES, Script
from tests.verify.ways import Way


@pytest.mark.parametrize("version", ['"v1"', None])
@pytest.mark.parametrize("kind", PACK)
def test_a_broken_transfer_goes_on_and_the_decoder_sees_each_byte_once(
    scripted: Scripted, way: Way, kind: str, version: str | None
) -> None:
    packed = PACK[kind](DATA)
    breaks = [(where, TransferError("lost")) for where in (3000, 90_000, 200_000)]
    ref, script = scripted.image(packed, version=version, breaks=breaks)
    data, evidence = way.get(scripted.broker, ref, decompress=kind)
    assert_that(data, Equals(DATA))
    assert_that(evidence["sha256"], Equals(sha256(packed)))
    assert_that(len(script.reads), Equals(4))


def test_an_image_that_changes_between_attempts_is_never_spliced(
    scripted: Scripted, way: Way
) -> None:
    packed = gzip.compress(DATA)
    ref, script = scripted.image(packed, breaks=[(150_000, TransferError("lost"))])

    def replaced(offset: int) -> None:
        if len(script.reads) == 2:
            script.data = damaged(packed[:100_000]) + packed[100_000:]

    script.before_chunk = replaced
    with pytest.raises(ImageChanged):
        way.get(scripted.broker, ref, decompress="gzip")
    way.assert_nothing_came(len(DATA))


def test_a_broken_transfer_keeps_no_part(scripted: Scripted, tmp_path: Path) -> None:
    packed = gzip.compress(DATA)
    breaks = [(150_000, TransferError("lost", retryable=False))]
    ref, _ = scripted.image(packed, version='"v1"', breaks=breaks)
    folder = tmp_path / "here"
    folder.mkdir()
    with pytest.raises(TransferError):
        scripted.broker.download(
            None, ref, folder / "disk", decompress="gzip", keep_partial=True,
            checksum=f"sha256:{sha256(packed)}",
        )  # fmt: skip
    assert_that(list(folder.iterdir()), Equals([]))


def test_a_part_of_the_compressed_image_is_not_taken_for_its_content(
    scripted: Scripted, tmp_path: Path
) -> None:
    packed = gzip.compress(DATA)
    breaks = [(150_000, TransferError("lost", retryable=False))]
    ref, _ = scripted.image(packed, version='"v1"', breaks=breaks)
    with pytest.raises(TransferError):
        scripted.broker.download(None, ref, tmp_path / "disk", keep_partial=True)
    done = scripted.broker.download(
        None, ref, tmp_path / "disk", decompress="gzip", keep_partial=True
    )
    assert_that(done.resumed_from, Is(None))
    assert_that((tmp_path / "disk").read_bytes(), Equals(DATA))


def test_a_location_is_unpacked_too(located: imagebroker.Broker, way: Way) -> None:
    IMAGES["/there"] = Script(PACKED)
    data, _ = way.get(located, f"located:{UUID}", decompress="gzip")
    assert_that(data, Equals(DATA))
    assert_that(IMAGES[UUID].opened, Equals(0))


@pytest.mark.parametrize("wrong", [damaged(PACKED), gzip.compress(DATA[::-1])])
def test_all_that_a_bad_location_sent_is_dropped(
    located: imagebroker.Broker, tmp_path: Path, wrong: bytes
) -> None:
    IMAGES["/there"] = Script(wrong)
    done = located.download(None, f"located:{UUID}", tmp_path / "disk", decompress="gzip")
    assert_that((tmp_path / "disk").read_bytes(), Equals(DATA))
    assert_that(done.source, Equals(f"located:{UUID}"))


def test_a_reader_of_a_bad_location_never_ends_well(located: imagebroker.Broker) -> None:
    IMAGES["/there"] = Script(damaged(PACKED))
    with (
        located.open(None, f"located:{UUID}", decompress="gzip") as reader,
        pytest.raises(ImageBrokerError),
    ):
        reader.read()


def test_a_copy_stores_what_is_in_the_image(
    scripted: Scripted, make_broker: Callable[..., imagebroker.Broker], tmp_path: Path
) -> None:
    broker = make_broker(
        f"[imagebroker]\nenabled_schemes = scripted, file\n[backend:file]\n"
        f"store_dir = {tmp_path / 'store'}\n"
    )
    record = {"disk_format": "raw", "container_format": "compressed"}
    ref, _ = scripted.image(PACKED, record=record)
    image = broker.copy(None, ref, backend="file", decompress="gzip")
    assert_that(image, MatchesStructure.byEquality(size=len(DATA), container_format="bare"))
    assert_that(image.checksums["sha256"], Equals(sha256(DATA)))
