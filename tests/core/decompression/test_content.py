"""What is in the image arrives, and checks are about the right side."""

from __future__ import annotations

import gzip
import lzma
import struct
import sys
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is, LessThan, MatchesStructure

from imagebroker.exceptions import ChecksumMismatch, FormatError
from tests.conftest import Scripted
from tests.verify.ways import Way

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    zstd = pytest.importorskip("backports.zstd", reason="needs imagebroker[zstd]")
from tests.core.decompression.packing import DATA, MIB, PACK, sha256


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("kind", PACK)
def test_what_is_in_the_image_arrives_and_the_evidence_says_which_side_was_checked(
    scripted: Scripted, way: Way, kind: str, named: bool
) -> None:
    packed = PACK[kind](DATA)
    ref, script = scripted.image(packed)
    data, evidence = way.get(
        scripted.broker, ref, decompress=kind if named else "auto",
        checksum=f"sha256:{sha256(packed)}",
    )  # fmt: skip
    assert_that(data, Equals(DATA))
    assert_that(
        evidence,
        Equals({
            "sha256": sha256(packed),
            "checked_against": ("sha256 of the caller",),
            "compression": kind,
            "compressed_size": len(packed),
            "decompressed_sha256": sha256(DATA),
            "disk_format": "raw",
            "virtual_size": len(DATA),
        }),
    )  # fmt: skip
    assert_that(script.closed, Equals(1))


def test_a_download_says_both_sizes(scripted: Scripted, tmp_path: Path) -> None:
    packed = lzma.compress(DATA)
    ref, _ = scripted.image(packed)
    done = scripted.broker.download(None, ref, tmp_path / "disk", decompress="xz")
    assert_that(done, MatchesStructure.byEquality(size=len(DATA), path=tmp_path / "disk"))
    assert_that(done.image.size, Equals(len(packed)))
    with scripted.broker.open(None, ref, decompress="xz") as reader:
        assert_that(reader.size, Is(None))


@pytest.mark.parametrize("kind", PACK)
def test_the_digest_of_the_content_is_not_that_of_the_image(
    scripted: Scripted, way: Way, kind: str
) -> None:
    ref, _ = scripted.image(PACK[kind](DATA))
    with pytest.raises(ChecksumMismatch):
        way.get(scripted.broker, ref, decompress=kind, checksum=f"sha256:{sha256(DATA)}")
    way.assert_nothing_came(len(DATA))


@pytest.mark.parametrize("kind", PACK)
def test_the_last_byte_is_held_back_until_the_digest_is_right(
    scripted: Scripted, kind: str
) -> None:
    packed = PACK[kind](DATA)
    for chunk in (101, 1000, MIB):
        ref, _ = scripted.image(packed, chunk=chunk)
        seen = 0
        with (
            scripted.broker.open(
                None, ref, decompress=kind, checksum="sha256:" + "0" * 64
            ) as reader,
            pytest.raises(ChecksumMismatch),
        ):
            for piece in reader:
                seen += len(piece)
        assert_that(seen, LessThan(len(DATA)))


def test_the_format_is_that_of_the_content(scripted: Scripted, way: Way) -> None:
    qcow2 = b"QFI\xfb" + struct.pack(">IQI", 2, 1024, 10) + bytes(100_000)  # names a backing file
    for record in ({}, {"disk_format": "qcow2"}, {"disk_format": "raw"}):
        ref, _ = scripted.image(gzip.compress(qcow2), record=record)
        with pytest.raises(FormatError):
            way.get(scripted.broker, ref, decompress="gzip")
        way.assert_nothing_came(len(qcow2))


def test_a_record_that_says_compressed_is_about_what_comes_out(
    scripted: Scripted, way: Way
) -> None:
    record = {"disk_format": "qcow2", "container_format": "compressed"}
    ref, _ = scripted.image(gzip.compress(DATA), record=record)
    with pytest.raises(FormatError):
        way.get(scripted.broker, ref, decompress="gzip")
    way.assert_nothing_came(len(DATA))


def test_zeros_become_holes(scripted: Scripted, tmp_path: Path) -> None:
    content = b"begin" + bytes(64 * MIB) + b"end"
    ref, _ = scripted.image(zstd.compress(content))
    scripted.broker.download(None, ref, tmp_path / "disk", decompress="zstd")
    assert_that((tmp_path / "disk").read_bytes() == content, Is(True))
    assert_that((tmp_path / "disk").stat().st_blocks * 512, LessThan(MIB))
