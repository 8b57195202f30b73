"""Bytes that are read back are told from others, whatever zeros are not hashed again."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

from imagebroker.transfer.store.midstates import Midstates

MIB = 1024 * 1024
NOISE = random.Random(7).randbytes(3 * MIB)
#: Zeros at the beginning, in the middle, too few to be worth it, and at the end.
IMAGES = {
    "zeros everywhere": bytes(2 * MIB) + NOISE[:5000] + bytes(4 * MIB) + NOISE[:MIB]
    + bytes(70_000) + NOISE[: MIB + 77] + bytes(3 * MIB + 5),
    "no zeros": NOISE,
    "only zeros": bytes(3 * MIB + 1),
    "short": b"short",
    "empty": b"",
}  # fmt: skip


def fed(data: bytes, chunk: int, algorithm: str = "sha256") -> Midstates:
    hashed = Midstates(hashlib.new(algorithm))
    for start in range(0, len(data), chunk):
        hashed.update(memoryview(data)[start : start + chunk])
    return hashed


class Reader:
    """Reads `data`, and notes which ranges of it were asked for."""

    def __init__(self, data: bytes) -> None:
        self._data, self.ranges = data, list[tuple[int, int]]()

    def __call__(self, start: int, stop: int) -> Iterator[bytes]:
        self.ranges.append((start, stop))
        for at in range(start, stop, 300_000):
            yield self._data[at : min(at + 300_000, stop)]


@pytest.mark.parametrize("chunk", [4096, 65_537, MIB, 5 * MIB])
@pytest.mark.parametrize("name", IMAGES)
def test_the_same_bytes_match_in_whatever_chunks_they_came(name: str, chunk: int) -> None:
    data = IMAGES[name]
    hashed = fed(data, chunk)
    assert_that(hashed.hexdigest(), Equals(hashlib.sha256(data).hexdigest()))
    read = Reader(data)
    assert_that(hashed.matches(read), Is(True))
    assert_that([start for start, _ in read.ranges[1:]], Equals([s for _, s in read.ranges[:-1]]))
    assert_that(read.ranges[-1][1], Equals(len(data)))


@pytest.mark.parametrize("algorithm", ["sha512", "sha3_256", "blake2b", "md5"])
def test_any_algorithm_will_do(algorithm: str) -> None:
    data = IMAGES["zeros everywhere"]
    hashed = fed(data, MIB, algorithm)
    assert_that(hashed.hexdigest(), Equals(hashlib.new(algorithm, data).hexdigest()))
    assert_that(hashed.matches(Reader(data)), Is(True))


def test_a_run_of_zeros_is_one_range_whatever_the_chunks() -> None:
    data = NOISE[:4096] + bytes(5 * MIB) + NOISE[:4096]
    for chunk in (4096, 10_000, 3 * MIB, len(data)):
        read = Reader(data)
        fed(data, chunk).matches(read)
        longest = max(stop - start for start, stop in read.ranges)
        assert_that(5 * MIB - longest <= 2 * 10_000, Is(True))
        assert_that(len(read.ranges), Equals(4))


@pytest.mark.parametrize("name", ["zeros everywhere", "no zeros", "only zeros"])
def test_a_single_other_bit_is_found_wherever_it_is(name: str) -> None:
    data = IMAGES[name]
    places = [0, len(data) - 1, *random.Random(8).sample(range(len(data)), 30)]
    for place in places:
        other = bytearray(data)
        other[place] ^= 1 << place % 8
        assert_that(fed(data, MIB).matches(Reader(bytes(other))), Is(False))


def test_data_that_is_elsewhere_is_found() -> None:
    data = NOISE[:4096] + bytes(2 * MIB) + NOISE[4096:8192] + bytes(2 * MIB)
    moved = NOISE[:4096] + bytes(2 * MIB + 4096) + NOISE[4096:8192] + bytes(2 * MIB - 4096)
    assert_that(fed(data, 65_536).matches(Reader(moved)), Is(False))
