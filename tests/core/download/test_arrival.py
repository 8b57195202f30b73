"""The bytes of an image arrive, however they come."""

from __future__ import annotations

import hashlib

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, LessThan, MatchesStructure

from tests.conftest import Scripted
from tests.core.download.destination import DATA, SHA256, Destination


class TestPath:
    def test_the_bytes_arrive_and_the_evidence_is_computed(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, script = scripted.image(DATA)
        done = scripted.broker.download(None, ref, dest.path)
        dest.assert_complete()
        assert_that(
            done,
            MatchesStructure.byEquality(
                path=dest.path, size=len(DATA), source=ref, attempts=1, resumed_from=None
            ),
        )
        assert_that(done.evidence["sha256"], Equals(SHA256))
        assert_that(script.closed, Equals(1))

    @pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 4095, 4096, 4097, 100_000])
    def test_every_size_arrives(self, scripted: Scripted, dest: Destination, size: int) -> None:
        data = (DATA * 10)[:size]
        ref, _ = scripted.image(data, checksums={"sha256": hashlib.sha256(data).hexdigest()})
        assert_that(scripted.broker.download(None, ref, dest.path).size, Equals(size))
        dest.assert_complete(data)

    def test_runs_of_zeros_become_holes_and_are_the_same_bytes(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        data = DATA + bytes(64 << 20) + DATA + bytes(1 << 20)
        ref, _ = scripted.image(data, chunk=1 << 20)
        scripted.broker.download(None, ref, dest.path)
        dest.assert_complete(data)
        assert_that(dest.path.stat().st_blocks * 512, LessThan(8 << 20))

    @pytest.mark.parametrize("chunk", [1, 7])
    def test_tiny_chunks_arrive(self, scripted: Scripted, dest: Destination, chunk: int) -> None:
        ref, _ = scripted.image(DATA, chunk=chunk)
        scripted.broker.download(None, ref, dest.path)
        dest.assert_complete()


def test_one_huge_chunk_arrives(scripted: Scripted, dest: Destination) -> None:
    data = DATA * 30_000  # some 300 MB in one piece
    ref, _ = scripted.image(data, chunk=len(data))
    done = scripted.broker.download(None, ref, dest.path)
    assert_that(done.size, Equals(len(data)))
    assert_that(done.evidence["sha256"], Equals(hashlib.sha256(data).hexdigest()))
