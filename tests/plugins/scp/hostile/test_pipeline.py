"""The pipeline alone, at high speed: bytes are right and in place, or there is an error."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imagebroker_scp import pipeline
from imagebroker_scp.errors import StatusError
from imagebroker_scp.messages import Fields
from imagebroker_scp.sftp import Sftp
from testtools.assertions import assert_that
from testtools.matchers import GreaterThan, Is, LessThan

from imagebroker.plugin import TransferError
from tests.plugins.hostile_sftp import HostileSftp, content
from tests.plugins.scp.hostile.fetching import KIB, MIB


class Wire:
    """A stream to a server in the same thread, which hands out bytes in pieces of any size."""

    def __init__(self, server: HostileSftp, piece: Callable[[], int] = lambda: 1 << 20) -> None:
        self._server = server
        self._piece = piece
        self._to_server = bytearray()
        self._from_server = bytearray()
        self.most = 0
        self.requests = 0

    def send(self, data: bytes) -> None:
        self._to_server += data
        while len(self._to_server) >= 4:
            length = int.from_bytes(self._to_server[:4], "big")
            if len(self._to_server) < 4 + length:
                return
            packet = bytes(self._to_server[4 : 4 + length])
            del self._to_server[: 4 + length]
            self.requests += 1
            for answer in self._server.answers(packet):
                self._from_server += answer
        self.most = max(self.most, len(self._from_server))

    def receive(self) -> bytes:
        if not self._from_server:
            self._from_server += self._server.flush()
        count = max(1, self._piece())
        data = bytes(self._from_server[:count])
        del self._from_server[:count]
        return data


HOW = st.sampled_from(
    ["honest", "short first", "short each", "short at random", "shuffled", "held back", "twice",
     "unknown id", "one byte more", "no bytes", "length lies", "wrong kind", "status ok",
     "failure", "huge packet", "eof early", "data after the end"]
)  # fmt: skip


@pytest.mark.promise("security-23")
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow], database=None
)
@given(
    how=HOW,
    size=st.integers(0, 700_000),
    start=st.integers(0, 700_000),
    length=st.none() | st.integers(0, 700_000),
    pieces=st.lists(st.integers(1, 300_000), min_size=1, max_size=20),
    limits=st.none() | st.tuples(st.integers(0, 1 << 20), st.just(0)),
    known=st.booleans(),
)
def test_bytes_are_right_and_in_place_or_there_is_an_error(
    how: str,
    size: int,
    start: int,
    length: int | None,
    pieces: list[int],
    limits: tuple[int, int] | None,
    known: bool,
) -> None:
    scenario: dict[str, Any] = {"real_size": size, "reads": how}
    if limits is not None:
        scenario["limits"] = limits
    turns = iter(pieces * 10_000)
    sftp = Sftp(Wire(HostileSftp(scenario), lambda: next(turns, 1 << 20)))
    start = min(start, size)
    stop = min(size, start + length) if length is not None else size if known else None
    data = bytearray()
    try:
        for chunk in pipeline.Reader(sftp, b"handle", start, stop):
            data += chunk
    except (TransferError, StatusError, pipeline.FileEnded):
        assert_that(how in ("honest", "short first", "short each", "short at random"), Is(False))
        expected = content(size)[start:stop]
        assert_that(expected.startswith(data), Is(True))
    else:
        whole = data == content(size)[start:stop]
        # Without a size there is nothing that could tell an early end from the real one.
        early = how in ("eof early", "data after the end") and stop is None
        prefix = content(size)[start:stop].startswith(data)
        assert_that(whole or (early and prefix), Is(True))


@pytest.mark.promise("memory", "security-33")
def test_a_transfer_needs_a_bounded_amount_of_memory() -> None:
    for how in ("honest", "short each", "short at random", "shuffled"):
        server = HostileSftp({"reads": how, "real_size": 24 * MIB, "limits": [1 << 18, 0]})
        sftp = Sftp(Wire(server))
        tracemalloc.start()
        try:
            for _ in pipeline.Reader(sftp, b"handle", 0, 24 * MIB if how != "short each" else MIB):
                pass
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # The wire in this process holds another window's worth.
        assert_that(peak, LessThan(2 * pipeline.WINDOW + 4 * MIB), how)


def test_requests_are_kept_under_way() -> None:
    wire = Wire(HostileSftp({"real_size": 4 * MIB}))
    reading = iter(pipeline.Reader(Sftp(wire), b"handle", 0, 4 * MIB))
    next(reading)
    assert_that(wire.requests, GreaterThan(pipeline.REQUESTS // 2))
    assert_that(wire.requests, LessThan(pipeline.REQUESTS + 3))


def test_what_has_arrived_of_a_slow_answer_is_handed_out() -> None:
    wire = Wire(HostileSftp({"real_size": 64 * KIB}), lambda: 1000)
    reader = pipeline.Reader(Sftp(wire), b"handle", 0, 64 * KIB, patience=0.0)
    chunks = [bytes(chunk) for chunk in reader]
    assert_that(b"".join(chunks) == content(64 * KIB), Is(True))
    assert_that(len(chunks), GreaterThan(60))


@settings(deadline=None, max_examples=200, database=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_as_fields_are_read_or_refused(data: bytes) -> None:
    for parse in (
        lambda: Fields(data).attributes(),
        lambda: list(Fields(data).names()),
        lambda: Fields(data).string(),
    ):
        try:
            parse()
        except TransferError:
            pass
