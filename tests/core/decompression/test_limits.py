"""A bomb costs neither space, memory nor time."""

from __future__ import annotations

import functools
import gzip
import io
import lzma
import sys
import time
from typing import Any, BinaryIO, cast

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, LessThan

from imagebroker.exceptions import Cancelled, CompressionError, TooLarge, TransferError
from imagebroker.transfer.codecs import BLOCK, Unpacker
from tests.conftest import Scripted
from tests.verify.ways import Way

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    zstd = pytest.importorskip("backports.zstd", reason="needs imagebroker[zstd]")
from tests.core.decompression.packing import DATA, MIB, PACK


@functools.cache
def packed_zeros(kind: str) -> bytes:
    return PACK[kind](bytes(16 * MIB))


@pytest.mark.promise("security-17")
@pytest.mark.parametrize("kind", PACK)
def test_what_comes_out_is_held_to_max_size(scripted: Scripted, way: Way, kind: str) -> None:
    ref, _ = scripted.image(packed_zeros(kind))
    with pytest.raises(TooLarge) as caught:
        way.get(scripted.broker, ref, decompress=kind, max_size=4 * MIB)
    assert_that(caught.value.hint, Contains("max_size"))
    way.assert_nothing_came(4 * MIB + BLOCK)
    data, _ = way.get(scripted.broker, ref, decompress=kind, max_size=16 * MIB)
    assert_that(data == bytes(16 * MIB), Is(True))


@pytest.mark.promise("security-17")
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


@pytest.mark.promise("security-17")
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


@pytest.mark.promise("security-17")
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
