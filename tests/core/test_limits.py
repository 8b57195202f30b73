"""Limits of a transfer, and how it reports itself."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan

from imagebroker.config.tuning import Tuning
from imagebroker.exceptions import Cancelled, ConfigError, TransferError, TransferTimeout
from imagebroker.transfer.limits import Progress
from tests.bounds import in_time
from tests.conftest import Scripted

DATA = bytes(range(1, 256)) * 4112  # 1 MiB


def seconds_of(call: Any) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_a_transfer_takes_no_more_than_its_rate_limit(scripted: Scripted, tmp_path: Path) -> None:
    ref, _ = scripted.image(DATA, chunk=32 * 1024)
    broker = scripted.broker
    path = tmp_path / "image"

    def read() -> None:
        with broker.open(None, ref, rate_limit=2 << 20) as reader:
            assert_that(reader.read(), Equals(DATA))

    for call in (
        lambda: broker.download(None, ref, path, rate_limit=2 << 20),
        lambda: broker.download(None, ref, io.BytesIO(), rate_limit=2 << 20),
        read,
    ):
        assert_that(seconds_of(call), GreaterThan(0.35))
    assert_that(path.read_bytes(), Equals(DATA))


def test_the_deployer_may_set_it_and_a_call_may_set_another(
    scripted: Scripted, tmp_path: Path
) -> None:
    ref, _ = scripted.image(DATA, chunk=32 * 1024)
    path = tmp_path / "image"
    broker = scripted.configured("rate_limit = 2M")
    assert_that(seconds_of(lambda: broker.download(None, ref, path)), GreaterThan(0.35))
    broker = scripted.configured("rate_limit = 4K")  # of a MiB: for minutes
    took = seconds_of(lambda: broker.download(None, ref, path, rate_limit=1 << 30))
    assert_that(took, in_time(1))
    with pytest.raises(ConfigError, match="rate_limit"):
        scripted.configured("rate_limit = fast")


def test_a_limited_transfer_is_not_taken_for_a_stalled_one(
    scripted: Scripted, tmp_path: Path
) -> None:
    ref, _ = scripted.image(DATA[: 384 * 1024], chunk=192 * 1024)
    scripted.broker.download(
        None, ref, tmp_path / "image", rate_limit=128 * 1024, stall_timeout=1.0,
        min_rate=1 << 30, retries=0,
    )  # fmt: skip
    assert_that((tmp_path / "image").stat().st_size, Equals(384 * 1024))


def test_the_limit_holds_for_all_ranges_together(scripted: Scripted, tmp_path: Path) -> None:
    tuning = Tuning(parallel_from=64 * 1024, observe=0.01, smallest_range=32 * 1024)
    scripted.configured(tuning=tuning)
    ref, _ = scripted.image(
        DATA * 2, chunk=8 * 1024, version="v1", parallel_reads=8,
        before_chunk=lambda _: time.sleep(0.005),
    )  # fmt: skip
    took = seconds_of(
        lambda: scripted.broker.download(None, ref, tmp_path / "image", rate_limit=3 << 20)
    )
    assert_that(took, GreaterThan(0.5))
    assert_that((tmp_path / "image").read_bytes() == DATA * 2, Equals(True))


def test_a_local_copy_is_held_to_it_too(scripted: Scripted, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(DATA)
    ref, _ = scripted.image(DATA, local_path=tmp_path / "local")
    took = seconds_of(
        lambda: scripted.broker.download(None, ref, tmp_path / "image", rate_limit=512 * 1024)
    )
    assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    if (tmp_path / "image").stat().st_blocks:  # where blocks are shared nothing was moved
        assert_that(took, GreaterThan(0.35))


@pytest.mark.parametrize("by", ["cancel", "deadline", "progress"])
def test_what_ends_a_call_ends_it_while_a_place_is_being_opened(
    by: str, scripted: Scripted, tmp_path: Path
) -> None:
    gate = threading.Event()
    ref, _ = scripted.image(DATA, before_open=lambda: gate.wait(20) and None)
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()

    def stop(progress: Progress) -> None:
        if cancel.is_set():
            raise InterruptedError("enough")

    arguments: dict[str, Any] = {
        "cancel": {"cancel": cancel}, "deadline": {"deadline": 0.3}, "progress": {"progress": stop}
    }[by]  # fmt: skip
    expected = {"cancel": Cancelled, "deadline": TransferTimeout, "progress": InterruptedError}[by]
    began = time.monotonic()
    with pytest.raises(expected):
        scripted.broker.download(None, ref, tmp_path / "image", retries=0, **arguments)
    assert_that(time.monotonic() - began, in_time(1))
    gate.set()


def test_progress_tells_every_phase_the_location_and_the_retries(
    scripted: Scripted, tmp_path: Path
) -> None:
    told: list[Progress] = []
    ref, script = scripted.image(
        DATA, chunk=64 * 1024, version="v1", breaks=[(30_000, None)],
        before_chunk=lambda _: time.sleep(0.02),
    )  # fmt: skip
    script.before_open = lambda: time.sleep(0.25)
    broker = scripted.make_broker(
        "[imagebroker]\nenabled_schemes = scripted\nretry_backoff = 0.5\n"
    )
    broker.download(None, ref, tmp_path / "image", progress=told.append)
    assert_that(sorted({each.phase for each in told}),
                Equals(["connect", "done", "transfer", "verify", "wait"]))  # fmt: skip
    assert_that({each.location for each in told}, Equals({ref}))
    assert_that(told[-1].phase, Equals("done"))
    assert_that(
        (told[-1].done, told[-1].total, told[-1].retries), Equals((len(DATA), len(DATA), 1))
    )
    dones = [each.done for each in told]
    assert_that(dones, Equals(sorted(dones)))


def test_after_an_attempt_that_brought_bytes_there_is_hardly_a_pause(
    scripted: Scripted, tmp_path: Path
) -> None:
    broker = scripted.make_broker(
        "[imagebroker]\nenabled_schemes = scripted\nretry_backoff = 200\n"
    )
    ref, _ = scripted.image(DATA, chunk=64 * 1024, version="v1", breaks=[(300_000, None)])
    assert_that(seconds_of(lambda: broker.download(None, ref, tmp_path / "image")), in_time(3))


def test_a_pause_is_as_long_as_the_peer_asks_and_never_beyond_the_deadline(
    scripted: Scripted, tmp_path: Path
) -> None:
    ref, _ = scripted.image(DATA, breaks=[(0, TransferError("busy", retry_after=0.4))])
    took = seconds_of(lambda: scripted.broker.download(None, ref, tmp_path / "image"))
    assert_that(took, GreaterThan(0.39))
    ref, _ = scripted.image(DATA, breaks=[(0, TransferError("busy", retry_after=1e9))])
    began = time.monotonic()
    with pytest.raises(TransferTimeout) as caught:
        scripted.broker.download(None, ref, tmp_path / "image", deadline=0.5)
    assert_that(str(caught.value), Contains("deadline"))
    assert_that(time.monotonic() - began, in_time(1))
