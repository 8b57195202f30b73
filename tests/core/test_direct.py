"""What is written past the page cache is what was given, in whatever pieces."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

from imagebroker.transfer.store.direct import DirectIO
from imagebroker.transfer.store.part_file import PartFile
from tests.bounds import HANGS

MIB = 1024 * 1024


@pytest.fixture
def part(tmp_path: Path) -> Iterator[PartFile]:
    with made(tmp_path, DirectIO(pace=0)) as part:
        yield part


def made(folder: Path, how: DirectIO) -> PartFile:
    part = PartFile(folder / "image", key="0" * 16, direct=how)
    if not part.is_direct:
        part.discard()
        pytest.skip("the folder for temporary files is on neither ext4 nor XFS")
    return part


def pieces(data: bytes, sizes: list[int], seed: int) -> Iterator[tuple[int, bytes]]:
    numbers, offset = random.Random(seed), 0
    while offset < len(data):
        size = numbers.choice(sizes)
        yield offset, data[offset : offset + size]
        offset += size


@pytest.mark.parametrize(
    "sizes",
    [[MIB], [2 * MIB], [5 * MIB], [1, 4095, 4096], [300_000, 7], [2 * MIB - 4096, 4096, 8191]],
    ids=str,
)
def test_any_pieces_in_order_become_the_file(sizes: list[int], part: PartFile) -> None:
    data = random.Random(1).randbytes(9 * MIB + 12_345 if max(sizes) > 9000 else MIB + 77)
    for offset, piece in pieces(data, sizes, seed=2):
        part.write(offset, piece)
    assert_that(b"".join(part.read_back(0, len(data))) == data, Is(True))
    part.commit()
    assert_that(Path(os.fsdecode(part.path)).read_bytes() == data, Is(True))


def test_zeros_between_become_holes(part: PartFile) -> None:
    data = bytearray(32 * MIB)
    for start in (0, 5 * MIB, 5 * MIB + 4096 * 3, 20 * MIB + 1):
        data[start : start + 700_000] = random.Random(start).randbytes(700_000)
    for offset, piece in pieces(bytes(data), [MIB, 65536], seed=3):
        part.write(offset, piece)
    part.commit()
    path = Path(os.fsdecode(part.path))
    assert_that(path.read_bytes() == bytes(data), Is(True))
    assert_that(path.stat().st_blocks * 512 < 4 * MIB, Is(True))


@pytest.mark.parametrize("seed", range(8))
def test_what_comes_out_of_order_lies_where_it_belongs(seed: int, part: PartFile) -> None:
    """In order from the beginning, mixed with ranges further on, some of which are read back."""
    data, numbers = random.Random(seed).randbytes(24 * MIB), random.Random(seed)
    lanes = [[start, start + 6 * MIB] for start in range(0, len(data), 6 * MIB)]
    while lanes:
        lane = numbers.choice(lanes)
        size = min(numbers.choice([1000, 65536, MIB]), lane[1] - lane[0])
        part.write(lane[0], memoryview(data)[lane[0] : lane[0] + size])
        lane[0] += size
        if numbers.random() < 0.1:
            start = max(0, lane[0] - 3 * MIB)
            begun = lane[1] - 6 * MIB
            start = max(start, begun)
            found = b"".join(part.read_back(start, lane[0]))
            assert_that(found == data[start : lane[0]], Is(True))
        lanes = [lane for lane in lanes if lane[0] < lane[1]]
    part.commit()
    assert_that(Path(os.fsdecode(part.path)).read_bytes() == data, Is(True))


def test_a_transfer_that_begins_again_leaves_nothing_of_the_first(part: PartFile) -> None:
    first, second = (random.Random(seed).randbytes(size) for seed, size in ((4, 7 * MIB), (5, MIB)))
    for offset, piece in pieces(first, [MIB - 1], seed=0):
        part.write(offset, piece)
    part.rewind()
    part.write(0, second)
    part.commit()
    assert_that(Path(os.fsdecode(part.path)).read_bytes() == second, Is(True))


def test_it_goes_on_in_the_middle_of_a_block(part: PartFile) -> None:
    """As after an earlier process that stored an odd number of bytes."""
    data = random.Random(6).randbytes(6 * MIB + 1)
    os.pwrite(part.fileno(), data[:1_000_001], 0)
    for offset, piece in pieces(data[1_000_001:], [MIB], seed=0):
        part.write(1_000_001 + offset, piece)
    part.commit()
    assert_that(Path(os.fsdecode(part.path)).read_bytes() == data, Is(True))


def test_what_comes_slowly_is_in_the_file_at_once(tmp_path: Path) -> None:
    """Others may wait for it: those who follow the part file of a running transfer."""
    with PartFile(tmp_path / "image", key="0" * 16, direct=DirectIO()) as part:
        part.write(0, b"x" * MIB)
        assert_that(part.in_file(MIB), Equals(MIB))
        assert_that(os.pread(part.fileno(), MIB, 0), Equals(b"x" * MIB))


def test_nobody_is_told_of_bytes_that_are_not_in_the_file(part: PartFile) -> None:
    data = random.Random(8).randbytes(20 * MIB)
    for offset in range(0, len(data), MIB):
        part.write(offset, data[offset : offset + MIB])
        there = part.in_file(offset + MIB)
        assert_that(os.pread(part.fileno(), there, 0) == data[:there], Is(True))
    part.flush()
    assert_that(part.in_file(len(data)), Equals(len(data)))


@pytest.mark.parametrize("size", [MIB, 64 * MIB], ids=["at-the-end", "under-way"])
def test_a_write_that_fails_is_an_error_of_the_destination(size: int, tmp_path: Path) -> None:
    program = [sys.executable, "-c", TOO_LARGE, str(tmp_path), str(size)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=HANGS, check=False)
    assert_that(done.stdout.strip(), Equals(f"DestinationError {errno.EFBIG}"), done.stderr)
    assert_that(os.listdir(tmp_path), Equals([]))


TOO_LARGE = """
import os, resource, signal, sys
from imagebroker import DestinationError
from imagebroker.transfer.store.direct import DirectIO
from imagebroker.transfer.store.part_file import PartFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
try:
    with PartFile(os.path.join(sys.argv[1], "image"), key="0" * 16, direct=DirectIO()) as part:
        for offset in range(0, size, 1 << 20):
            part.write(offset, os.urandom(1 << 20))
        part.commit()
except DestinationError as error:
    print("DestinationError", error.errno)
"""


def test_a_disk_that_refuses_gets_the_bytes_through_the_cache(
    tmp_path: Path,
) -> None:
    """The kernel answers EINVAL to blocks that are not aligned as the disk wants it."""
    data = random.Random(7).randbytes(5 * MIB + 3)
    with made(tmp_path, DirectIO(pace=0, aligned=1)) as part:
        part.write(0, data[: MIB + 1])
        list(part.read_back(0, MIB))
        part.write(MIB + 1, data[MIB + 1 :])
        part.commit()
    assert_that((tmp_path / "image").read_bytes() == data, Is(True))


def test_a_file_system_of_which_nothing_is_known_is_written_through_the_cache() -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or not os.access(shared, os.W_OK):
        pytest.skip("there is no tmpfs at /dev/shm")
    path = shared / f"imagebroker-test-{os.getpid()}"
    try:
        with PartFile(path, key="0" * 16, direct=DirectIO()) as part:
            assert_that(part.is_direct, Is(False))
    finally:
        path.unlink(missing_ok=True)
