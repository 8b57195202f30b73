"""Runs of zeros become holes, in whatever chunks they arrive."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan, LessThan

from imagebroker.transfer.store.sparse import BLOCK, filled, is_zero
from tests.conftest import Scripted

NOISE = random.Random(7).randbytes(5000)
#: 5 MiB of zeros with a little in between, none of it at a multiple of anything.
SPARSE = NOISE + bytes(3 << 20) + NOISE[:77] + bytes(2 << 20) + NOISE + bytes(9999)


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.lists(
        st.tuples(st.sampled_from([1, 77, 4095, 4096, 4097, 12288, 70_000]), st.booleans()),
        min_size=1, max_size=6,
    ),
    offset=st.integers(0, 3 * BLOCK),
)  # fmt: skip
def test_every_block_of_zeros_is_left_out_and_nothing_else(
    pieces: list[tuple[int, bool]], offset: int
) -> None:
    data = b"".join(b"\x01" * size if full else bytes(size) for size, full in pieces)
    runs = filled(memoryview(data), offset)
    position = -(offset % BLOCK)
    while position < len(data):
        start, stop = max(position, 0), min(position + BLOCK, len(data))
        written = [each for each in runs if each[0] <= start and stop <= each[1]]
        assert_that(bool(written), Equals(any(data[start:stop])))
        position += BLOCK
    assert_that(all(a < b for a, b in runs), Equals(True))
    assert_that(all(a[1] < b[0] for a, b in itertools.pairwise(runs)), Equals(True))


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_single_byte_anywhere_is_seen(size: int) -> None:
    data = bytearray(size)
    assert_that(is_zero(memoryview(data)), Equals(True))
    for position in {0, size // 2, size - 1} if size else set():
        data[position] = 1
        assert_that(is_zero(memoryview(data)), Equals(False))
        data[position] = 0


@pytest.mark.promise("space-first")
@pytest.mark.parametrize("chunk", [1000, 4096, 5000, 65_536, 1 << 20, len(SPARSE)])
def test_the_file_takes_little_room_and_has_the_same_bytes(
    chunk: int, scripted: Scripted, tmp_path: Path
) -> None:
    ref, _ = scripted.image(SPARSE, chunk=chunk)
    scripted.broker.download(None, ref, tmp_path / "image")
    assert_that((tmp_path / "image").read_bytes() == SPARSE, Equals(True))
    assert_that(os.stat(tmp_path / "image").st_blocks * 512, LessThan(64 * 1024))


@pytest.mark.promise("space-first")
def test_a_file_that_is_preallocated_has_its_whole_size_before_the_first_byte(
    scripted: Scripted, tmp_path: Path
) -> None:
    seen = []

    def look(offset: int) -> None:
        parts = [p for p in tmp_path.iterdir() if p.name.endswith(".imagebroker-part")]
        seen.append(parts[0].stat().st_blocks * 512)

    ref, _ = scripted.image(SPARSE, chunk=1 << 20, before_chunk=look)
    scripted.broker.download(None, ref, tmp_path / "image", preallocate=True)
    assert_that(seen[1], GreaterThan(len(SPARSE) - 1))
    assert_that((tmp_path / "image").read_bytes() == SPARSE, Equals(True))
    assert_that((tmp_path / "image").stat().st_size, Equals(len(SPARSE)))
    assert_that((tmp_path / "image").stat().st_blocks * 512, GreaterThan(len(SPARSE) - 1))
    seen.clear()
    broker = scripted.configured("preallocate = true")
    broker.download(None, ref, tmp_path / "image")
    assert_that(seen[1], GreaterThan(len(SPARSE) - 1))


def test_without_it_nothing_is_reserved(scripted: Scripted, tmp_path: Path) -> None:
    ref, _ = scripted.image(SPARSE, chunk=1 << 20)
    scripted.broker.download(None, ref, tmp_path / "image", preallocate=False)
    assert_that((tmp_path / "image").stat().st_blocks * 512, LessThan(64 * 1024))
