"""A plugin yields what it likes: one chunk may be the whole image."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

from tests.conftest import Scripted

SLOW = os.environ.get("IMAGEBROKER_SLOW_TESTS") == "1"


@pytest.mark.parametrize(
    "size",
    [
        (64 << 20) + 1,
        # More than the kernel writes in one call.
        pytest.param((2 << 30) + 1, marks=pytest.mark.skipif(
            not SLOW, reason="IMAGEBROKER_SLOW_TESTS=1 writes 2 GiB"
        )),
    ],
)  # fmt: skip
def test_one_chunk_of_any_size_arrives(scripted: Scripted, tmp_path: Path, size: int) -> None:
    data = bytes(size - 1) + b"\1"  # not all zeros: it is written, no hole
    ref, _ = scripted.image(data, chunk=size)
    done = scripted.broker.download(None, ref, tmp_path / "x")
    assert_that(done.size, Equals(size))
    assert_that(done.evidence["sha256"], Equals(hashlib.sha256(data).hexdigest()))
    assert_that((tmp_path / "x").stat().st_size, Equals(size))
