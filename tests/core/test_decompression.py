"""Images that are unpacked on the way."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import random
import shutil
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, LessThan, MatchesStructure

import imagebroker
from imagebroker.exceptions import (
    Cancelled,
    ChecksumMismatch,
    CompressionError,
    FormatError,
    ImageBrokerError,
    ImageChanged,
    InvalidImageRef,
    TooLarge,
    TransferError,
    UnsupportedOperation,
)
from imagebroker.plugin import Image, ImageRef, Location
from imagebroker.transfer.layers.codecs import BLOCK, KINDS, Unpacker, unpacked_name
from tests.conftest import Scripted
from tests.distributions import install
from tests.scripted import IMAGES, RecordBackend, Script
from tests.verify.ways import WAYS, Way

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    zstd = pytest.importorskip("backports.zstd", reason="needs imagebroker[zstd]")

MIB = 1 << 20
#: No disk image, so raw; some of it can be compressed and some cannot.
DATA = random.Random(7).randbytes(300_000) + bytes(200_000) + b"the end" * 1000


def damaged(data: bytes) -> bytes:
    half = len(data) // 2
    return data[:half] + bytes([data[half] ^ 0x55]) + data[half + 1 :]


PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": lambda data: zstd.compress(
        data, options={zstd.CompressionParameter.checksum_flag: True}
    ),
    "bzip2": bz2.compress,
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    made: Way = request.param(tmp_path)
    return made


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


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
def test_nothing_is_unpacked_unless_that_is_asked_for(
    scripted: Scripted, way: Way, kind: str
) -> None:
    packed = PACK[kind](DATA)
    ref, _ = scripted.image(packed)
    data, evidence = way.get(scripted.broker, ref)
    assert_that(data, Equals(packed))
    assert_that("compression" in evidence, Is(False))


@pytest.mark.parametrize("data", [DATA, b"x", b"BZh9 is no bzip2", b"\x1f\x8b", b"\xfd7zX"])
def test_auto_leaves_alone_what_is_not_compressed(
    scripted: Scripted, way: Way, data: bytes
) -> None:
    ref, _ = scripted.image(data)
    got, evidence = way.get(scripted.broker, ref, decompress="auto")
    assert_that(got, Equals(data))
    assert_that(evidence["sha256"], Equals(sha256(data)))
    assert_that("compression" in evidence, Is(False))


@pytest.mark.parametrize("kind", PACK)
def test_what_is_not_of_the_kind_that_was_named_is_refused(
    scripted: Scripted, way: Way, kind: str
) -> None:
    for other in (DATA, *(PACK[name](DATA) for name in PACK if name != kind)):
        ref, _ = scripted.image(other)
        with pytest.raises(CompressionError) as caught:
            way.get(scripted.broker, ref, decompress=kind)
        assert_that(caught.value.hint, Contains("auto"))
        way.assert_nothing_came(1)


@pytest.mark.parametrize("wrong", ["", "lzma", "GZIP", 7, b"gzip", ["gzip"], True])
def test_an_unknown_kind_is_refused_before_any_io(scripted: Scripted, wrong: Any) -> None:
    ref, script = scripted.image(DATA)
    for call in (
        lambda: scripted.broker.open(None, ref, decompress=wrong),
        lambda: scripted.broker.download(None, ref, io.BytesIO(), decompress=wrong),
    ):
        with pytest.raises(InvalidImageRef):
            call()
    assert_that(script.opened, Equals(0))


# -- where the data ends ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("chunk", [1, 7, 1000, 10 * MIB])
def test_several_members_are_one_content(
    scripted: Scripted, way: Way, kind: str, chunk: int
) -> None:
    pack, parts = PACK[kind], (b"first" * 500, b"", b"second", DATA[:2000], b"")
    ref, _ = scripted.image(b"".join(map(pack, parts)), chunk=chunk)
    data, _ = way.get(scripted.broker, ref, decompress="auto")
    assert_that(data, Equals(b"".join(parts)))


def test_frames_of_zstd_that_are_to_be_skipped_are_skipped(scripted: Scripted, way: Way) -> None:
    skipped = struct.pack("<II", 0x184D2A53, 20_000) + os.urandom(20_000)
    ref, _ = scripted.image(skipped + zstd.compress(b"one") + skipped + zstd.compress(b" two"))
    data, _ = way.get(scripted.broker, ref, decompress="zstd")
    assert_that(data, Equals(b"one two"))


@pytest.mark.parametrize("between", [4, 8, 100_000])
def test_padding_between_and_after_streams_of_xz_is_skipped(
    scripted: Scripted, way: Way, between: int
) -> None:
    padding = bytes(between)
    ref, _ = scripted.image(lzma.compress(b"one") + padding + lzma.compress(b" two") + padding)
    data, _ = way.get(scripted.broker, ref, decompress="xz")
    assert_that(data, Equals(b"one two"))


@pytest.mark.parametrize("kind", ["xz", "zstd"])
@pytest.mark.parametrize("garbage", [b"x", b"\0", bytes(3), b"#!/bin/sh\n" * 5000, b"\0\0\0\0x"])
def test_something_else_behind_the_data_is_refused_where_its_own_tool_does(
    scripted: Scripted, way: Way, kind: str, garbage: bytes
) -> None:
    ref, _ = scripted.image(PACK[kind](DATA) + garbage)
    with pytest.raises(CompressionError):
        way.get(scripted.broker, ref, decompress=kind)
    way.assert_nothing_came(len(DATA))


@pytest.mark.parametrize("kind", PACK)
def test_data_that_is_cut_at_any_byte_is_refused(kind: str) -> None:
    packed = PACK[kind](b"some content " * 20)
    for stop in range(1, len(packed)):
        with pytest.raises(CompressionError):
            list(Unpacker("it", kind).unpacked([packed[:stop]]))
    assert_that(
        b"".join(map(bytes, Unpacker("it", kind).unpacked([packed]))),
        Equals(b"some content " * 20),
    )


@pytest.mark.parametrize("kind", PACK)
def test_data_that_is_cut_leaves_nothing(scripted: Scripted, way: Way, kind: str) -> None:
    packed = PACK[kind](DATA)
    for stop in (20, len(packed) // 2, len(packed) - 1):
        ref, script = scripted.image(packed[:stop])
        with pytest.raises(CompressionError) as caught:
            way.get(scripted.broker, ref, decompress=kind)
        assert_that(caught.value.retryable, Is(False))
        assert_that(script.opened, Equals(1))
        way.assert_nothing_came(len(DATA))


@pytest.mark.parametrize("kind", PACK)
def test_damaged_data_leaves_nothing(scripted: Scripted, way: Way, kind: str) -> None:
    ref, script = scripted.image(damaged(PACK[kind](DATA)))
    with pytest.raises(CompressionError):
        way.get(scripted.broker, ref, decompress=kind)
    assert_that(script.opened, Equals(1))
    way.assert_nothing_came(len(DATA))


@settings(max_examples=150, deadline=None, database=None)
@given(
    st.sampled_from(sorted(PACK)),
    st.binary(max_size=300),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    st.binary(max_size=30),
)
def test_whatever_bytes_come_there_is_content_or_one_kind_of_error(
    kind: str, content: bytes, changes: list[tuple[int, int]], more: bytes
) -> None:
    packed = bytearray(PACK[kind](content) + more)
    for place, value in changes:
        packed[place % len(packed)] = value
    results = set()
    for size in (1, 13, len(packed)):
        chunks = [bytes(packed[at : at + size]) for at in range(0, len(packed), size)]
        try:
            results.add(b"".join(map(bytes, Unpacker("it", "auto").unpacked(chunks))))
        except CompressionError:
            results.add(b"refused")
    assert_that(len(results - {b"refused"}), LessThan(2))  # however it arrives


# -- checks -------------------------------------------------------------------------------------


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


# -- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PACK)
def test_what_comes_out_is_held_to_max_size(scripted: Scripted, way: Way, kind: str) -> None:
    content = bytes(40 * MIB)
    ref, _ = scripted.image(PACK[kind](content))
    with pytest.raises(TooLarge) as caught:
        way.get(scripted.broker, ref, decompress=kind, max_size=10 * MIB)
    assert_that(caught.value.hint, Contains("max_size"))
    way.assert_nothing_came(10 * MIB + BLOCK)
    data, _ = way.get(scripted.broker, ref, decompress=kind, max_size=40 * MIB)
    assert_that(data == content, Is(True))


def test_a_bomb_ends_within_a_piece_of_the_ratio(scripted: Scripted) -> None:
    member = zstd.compress(bytes(256 * MIB))
    ref, _ = scripted.image(member * 8)  # 2 GiB
    sizes: list[int] = []

    class Counting(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, chunk: Any) -> int:
            sizes.append(len(chunk))
            return len(chunk)

    with pytest.raises(TooLarge) as caught:
        scripted.broker.download(
            None, ref, cast(BinaryIO, Counting()), decompress="zstd", max_compression_ratio=2
        )
    assert_that(caught.value.hint, Contains("max_compression_ratio"))
    assert_that(sum(sizes), LessThan((1 << 30) + 2 * len(member * 8)))
    assert_that(max(sizes), Equals(BLOCK))


def test_memory_is_bounded_whatever_the_headers_ask_for(scripted: Scripted, way: Way) -> None:
    wide_zstd = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 28})
    wide = {
        "xz": lzma.compress(DATA, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 192 * MIB}]),
        "zstd": wide_zstd.compress(DATA) + wide_zstd.flush(),
    }  # fmt: skip
    for kind, packed in wide.items():
        ref, _ = scripted.image(packed, chunk=MIB)
        with pytest.raises(CompressionError) as caught:
            way.get(scripted.broker, ref, decompress=kind)
        assert_that(str(caught.value), Contains("128 MiB"))
        assert_that(caught.value.hint, Contains("smaller window"))
        way.assert_nothing_came(1)


@pytest.mark.parametrize("packed", [lzma.compress(DATA, preset=9), zstd.compress(DATA, level=19)])
def test_what_the_tools_make_at_their_usual_best_is_within_the_limit(
    scripted: Scripted, way: Way, packed: bytes
) -> None:
    ref, _ = scripted.image(packed)
    assert_that(way.get(scripted.broker, ref, decompress="auto")[0], Equals(DATA))


@pytest.mark.parametrize("kind", PACK)
def test_time_grows_with_the_data_however_many_members_it_has(kind: str) -> None:
    def seconds(size: int) -> float:
        member = PACK[kind](b"")
        data = member * (size // len(member)) + PACK[kind](b"x")
        before = time.thread_time()
        assert_that(b"".join(map(bytes, Unpacker("it", kind).unpacked([data]))), Equals(b"x"))
        return time.thread_time() - before

    # Sixteen times the data; a quadratic time would be 256 times as long.
    assert_that(seconds(MIB), LessThan(100 * seconds(MIB // 16)))


@pytest.mark.parametrize("kind", PACK)
def test_data_of_nothing_but_tiny_members_is_refused(kind: str) -> None:
    member = PACK[kind](b"")
    with pytest.raises(CompressionError) as caught:
        list(Unpacker("it", kind).unpacked([member] * 250_000))
    assert_that(str(caught.value), Contains("pieces"))


def test_blocks_as_bgzip_makes_them_of_a_run_of_zeros_are_not_tiny() -> None:
    content = bytes(64 * 1024)
    members = [gzip.compress(content)] * 200
    unpacker = Unpacker("it", "gzip")
    assert_that(sum(map(len, unpacker.unpacked(members))), Equals(200 * len(content)))
    assert_that(unpacker.taken // 200 > 64, Is(True))


def test_an_image_with_nothing_in_it_needs_leave(scripted: Scripted, way: Way) -> None:
    ref, _ = scripted.image(gzip.compress(b""))
    with pytest.raises(TransferError) as caught:
        way.get(scripted.broker, ref, decompress="gzip")
    assert_that(caught.value.hint, Contains("allow_empty"))
    data, _ = way.get(scripted.broker, ref, decompress="gzip", allow_empty=True)
    assert_that(data, Equals(b""))


def test_a_caller_can_end_it_while_much_comes_out_of_little(scripted: Scripted) -> None:
    ref, _ = scripted.image(zstd.compress(bytes(200 * MIB)))

    class After:
        asked = 0

        def is_set(self) -> bool:
            self.asked += 1
            return self.asked > 100

    with pytest.raises(Cancelled):
        scripted.broker.download(None, ref, io.BytesIO(), decompress="zstd", cancel=After())


# -- transfers that break -----------------------------------------------------------------------


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


def test_zeros_become_holes(scripted: Scripted, tmp_path: Path) -> None:
    content = b"begin" + bytes(64 * MIB) + b"end"
    ref, _ = scripted.image(zstd.compress(content))
    scripted.broker.download(None, ref, tmp_path / "disk", decompress="zstd")
    assert_that((tmp_path / "disk").read_bytes() == content, Is(True))
    assert_that((tmp_path / "disk").stat().st_blocks * 512, LessThan(MIB))


# -- locations ----------------------------------------------------------------------------------

UUID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
PACKED = gzip.compress(DATA)


class LocatedBackend(RecordBackend):
    """One image with an id, whose record names a location."""

    name = "located"

    def get(self, context: Any, ref: ImageRef, **flags: bool) -> Image:
        return Image(
            ref=ref.text,
            id=ref.id,
            size=len(PACKED),
            checksums={"sha256": sha256(PACKED)},
            locations=(Location("scripted://host/there"),),
        )


@pytest.fixture
def located(on_path: Path, make_broker: Callable[..., imagebroker.Broker]) -> imagebroker.Broker:
    schemes = {
        "located": f"{__name__}:LocatedBackend",
        "scripted": "tests.scripted:ScriptedBackend",
    }
    install(on_path, "imagebroker-located", schemes)
    IMAGES.clear()
    IMAGES[UUID] = Script(PACKED)
    return make_broker(
        "[imagebroker]\nenabled_schemes = located, scripted\nretries = 0\nretry_backoff = 0\n"
        "direct_url_schemes = scripted\n"
    )


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


# -- around it ----------------------------------------------------------------------------------


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


@pytest.mark.parametrize("tool", ["gzip", "xz", "zstd", "bzip2"])
def test_what_the_tools_make_is_unpacked(
    scripted: Scripted, way: Way, tmp_path: Path, tool: str
) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"needs {tool}")
    (tmp_path / "disk").write_bytes(DATA)
    packed = subprocess.run([tool, "-c", tmp_path / "disk"], capture_output=True, check=True).stdout
    ref, _ = scripted.image(packed)
    assert_that(way.get(scripted.broker, ref, decompress="auto")[0], Equals(DATA))


def test_without_the_module_for_zstd_the_call_says_how_to_get_it() -> None:
    program = textwrap.dedent("""
        import sys
        sys.modules["backports.zstd"] = sys.modules["compression.zstd"] = None
        from imagebroker.exceptions import UnsupportedOperation
        from imagebroker.transfer.layers.codecs import checked_kind
        assert checked_kind("xz") == "xz"
        try:
            checked_kind("zstd")
        except UnsupportedOperation as error:
            print(error.hint)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert_that(done.stdout, Equals("pip install 'imagebroker[zstd]'\n"))
    assert_that(issubclass(UnsupportedOperation, ImageBrokerError), Is(True))


@pytest.mark.parametrize(
    ("name", "decompress", "expected"),
    [
        (b"disk.qcow2.xz", "xz", b"disk.qcow2"),
        (b"disk.raw.ZST", "auto", b"disk.raw"),
        (b"disk.raw.gz", "xz", b"disk.raw.gz"),
        (b"disk", "auto", b"disk"),
        (b".xz", "xz", b".xz"),
    ],
)
def test_the_name_loses_its_ending(name: bytes, decompress: str, expected: bytes) -> None:
    assert_that(unpacked_name(name, decompress), Equals(expected))


def test_every_kind_has_a_test() -> None:
    assert_that(sorted(KINDS), Equals(sorted(PACK)))
