"""Several ranges at once: only where that is faster, and never with other bytes."""

from __future__ import annotations

import hashlib
import random
import time
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan, LessThan

from imagebroker.exceptions import (
    ChecksumMismatch,
    ImageChanged,
    RangeIgnored,
    TransferError,
    TransferTimeout,
)
from tests.conftest import SMALL_AND_QUICK, Scripted

MIB = 1 << 20
DATA = random.Random(1).randbytes(MIB) * 24 + b"the end"
pytestmark = pytest.mark.parametrize("tuning", [SMALL_AND_QUICK], indirect=True, ids=["quick"])
CHECKSUM = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


def limited(scripted: Scripted, seconds: float = 0.004, **how: Any) -> tuple[str, Any]:
    """An image whose every reader waits `seconds` before each 64 KiB, as if it were throttled."""
    how = {"version": "v1", "parallel_reads": 8, "chunk": 64 * 1024} | how
    ref, script = scripted.image(DATA, before_chunk=lambda offset: time.sleep(seconds), **how)
    return ref, script


@pytest.mark.promise("C12")
def test_a_server_that_limits_each_connection_gets_more_of_them(
    scripted: Scripted, tmp_path: Path
) -> None:
    ref, script = limited(scripted)
    done = scripted.broker.download(None, ref, tmp_path / "image", checksum=CHECKSUM)
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    assert_that(done.evidence["sha256"], Equals(CHECKSUM.partition(":")[2]))
    assert_that(script.most_alive, GreaterThan(3))
    assert_that(script.most_alive, LessThan(9))


@pytest.mark.promise("C12")
@pytest.mark.parametrize("how", [{"parallel_reads": 1}, {"version": None}, {"seekable": False}])
def test_a_source_that_does_not_declare_it_is_read_once(
    scripted: Scripted, tmp_path: Path, how: dict[str, Any]
) -> None:
    ref, script = limited(scripted, 0.001, **how)
    scripted.broker.download(None, ref, tmp_path / "image", checksum=CHECKSUM)
    assert_that(script.reads, Equals([0]))


def test_a_reader_gets_its_bytes_in_order_from_one_read(scripted: Scripted) -> None:
    ref, script = limited(scripted, 0.001)
    with scripted.broker.open(None, ref, checksum=CHECKSUM) as reader:
        assert_that(reader.read(), Equals(DATA))
    assert_that(script.reads, Equals([0]))


@pytest.mark.promise("resumed-as-one-image")
def test_ranges_that_break_are_read_again_and_no_others(scripted: Scripted, tmp_path: Path) -> None:
    rng = random.Random(2)
    ref, script = limited(scripted, 0.002)
    script.breaks = [(rng.randrange(len(DATA)), None) for _ in range(12)]
    sent = 0
    counted = script.before_chunk

    def count(offset: int) -> None:
        nonlocal sent
        sent += 64 * 1024
        counted(offset)

    script.before_chunk = count
    scripted.broker.download(None, ref, tmp_path / "image", checksum=CHECKSUM, retries=20)
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    assert_that(sent, LessThan(int(len(DATA) * 1.6)))


def test_a_peer_that_ignores_ranges_after_all_is_asked_from_the_beginning(
    scripted: Scripted, tmp_path: Path
) -> None:
    ref, script = limited(scripted, 0.002)
    script.breaks = [(len(DATA), None), (0, RangeIgnored("200 to a range"))]
    scripted.broker.download(None, ref, tmp_path / "image", checksum=CHECKSUM)
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    assert_that(script.reads[-1], Equals(0))


@pytest.mark.parametrize(
    "error", [ImageChanged("other bytes"), TransferError("no", retryable=False)]
)
def test_what_is_final_in_one_range_ends_the_transfer(
    scripted: Scripted, tmp_path: Path, error: Exception
) -> None:
    ref, script = limited(scripted, 0.002)
    script.breaks = [(len(DATA), None), (0, error)]
    with pytest.raises(type(error)):
        scripted.broker.download(None, ref, tmp_path / "image")
    assert_that([p.name for p in tmp_path.iterdir() if "image" in p.name and "part" in p.name],
                Equals([]))  # fmt: skip
    assert_that((tmp_path / "image").exists(), Equals(False))


@pytest.mark.promise("verified-whole")
def test_damage_in_any_range_is_found(scripted: Scripted, tmp_path: Path) -> None:
    ref, script = limited(scripted, 0.002)
    damaged = bytearray(DATA)
    damaged[20 * MIB] ^= 1
    script.data = bytes(damaged)
    with pytest.raises(ChecksumMismatch):
        scripted.broker.download(None, ref, tmp_path / "image", checksum=CHECKSUM)
    assert_that((tmp_path / "image").exists(), Equals(False))


def test_a_part_that_several_ranges_filled_is_taken_up(scripted: Scripted, tmp_path: Path) -> None:
    ref, script = limited(scripted, 0.002)
    script.breaks = [(len(DATA), None)] * 4 + [(0, TransferError("gone", retryable=False))]
    with pytest.raises(TransferError):
        scripted.broker.download(None, ref, tmp_path / "image", keep_partial=True)
    script.breaks = []
    done = scripted.broker.download(None, ref, tmp_path / "image", checksum=CHECKSUM)
    assert_that(done.resumed_from, GreaterThan(0))
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))


def test_the_minimum_rate_holds_for_all_ranges_together(scripted: Scripted, tmp_path: Path) -> None:
    ref, _ = limited(scripted, 0.02)
    with pytest.raises(TransferTimeout, match="less than"):
        scripted.broker.download(
            None, ref, tmp_path / "image", retries=0, stall_timeout=0.5, min_rate=1 << 30
        )
