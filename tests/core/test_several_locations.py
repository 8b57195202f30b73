"""Several locations of a large image at once: the fast ones send more, the bad ones are left out."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan, LessThan

import imagebroker
from imagebroker.config.tuning import Tuning
from imagebroker.exceptions import (
    BackendError,
    ChecksumMismatch,
    ImageChanged,
    PolicyViolation,
    RangeIgnored,
    TransferError,
)
from imagebroker.plugin import Image, ImageRef, Location
from tests.bounds import HANGS, in_time
from tests.distributions import install
from tests.scripted import IMAGES, RecordBackend, Script

MIB = 1 << 20
UUID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
REF = f"spread:{UUID}"
DATA = random.Random(5).randbytes(12 * MIB) + b"the end"
SHA256 = hashlib.sha256(DATA).hexdigest()


class SpreadBackend(RecordBackend):
    """Images with ids, whose records name locations."""

    name = "spread"
    locations: list[str] = []

    def get(self, context: Any, ref: ImageRef, **flags: bool) -> Image:
        return Image(
            ref=ref.text,
            id=ref.id,
            size=len(DATA),
            checksums={"sha256": SHA256},
            locations=tuple(Location(url, {}) for url in self.locations),
        )


def tuned(many_locations_from: int = MIB) -> Tuning:
    return Tuning(
        parallel_from=MIB, many_locations_from=many_locations_from, measure=0.02,
        smallest_range=256 * 1024, first_range=512 * 1024, range_seconds=0.1, quiet=0.3,
    )  # fmt: skip


@pytest.fixture
def tuning(request: pytest.FixtureRequest) -> Tuning:
    found: Tuning = getattr(request, "param", tuned())
    return found


@pytest.fixture
def broker(on_path: Path, make_broker: Callable[..., imagebroker.Broker]) -> imagebroker.Broker:
    schemes = {
        "spread": f"{__name__}:SpreadBackend",
        "scripted": "tests.scripted:ScriptedBackend",
    }
    install(on_path, "imagebroker-spread", schemes)
    IMAGES.clear()
    IMAGES[UUID] = Script(DATA)
    return make_broker(
        "[imagebroker]\nenabled_schemes = spread, scripted\nretries = 2\nretry_backoff = 0\n"
        "direct_url_schemes = scripted\n"
    )


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert_that(threading.active_count(), LessThan(before + 1))


def throttled(seconds: float = 0.01, **how: Any) -> Script:
    """A location that sends 64 KiB every so many seconds, to each reader."""
    return Script(
        **({"data": DATA, "chunk": 64 * 1024} | how), before_chunk=lambda _: time.sleep(seconds)
    )


def spread(**scripts: Script) -> list[Script]:
    IMAGES.update({f"/{name}": script for name, script in scripts.items()})
    SpreadBackend.locations = [f"scripted://host/{name}" for name in scripts]
    return list(scripts.values())


def download(broker: imagebroker.Broker, tmp_path: Path, **how: Any) -> Any:
    done = broker.download(None, REF, tmp_path / "image", **how)
    assert_that((tmp_path / "image").read_bytes() == DATA, Equals(True))
    assert_that(sum(done.served.values()), Equals(len(DATA)))
    return done


def test_they_share_the_work_and_the_backend_has_none(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    spread(one=throttled(), two=throttled(), three=throttled())
    done = download(broker, tmp_path)
    assert_that(len(done.served), Equals(3))
    assert_that(min(done.served.values()), GreaterThan(MIB))
    assert_that(IMAGES[UUID].opened, Equals(0))


def test_the_faster_one_sends_more(broker: imagebroker.Broker, tmp_path: Path) -> None:
    spread(slow=throttled(0.06), fast=throttled(0.01))
    done = download(broker, tmp_path)
    served = done.served
    fast, slow = served["scripted://host/fast"], served["scripted://host/slow"]
    assert_that(fast, GreaterThan(2 * slow))
    assert_that(slow, GreaterThan(0))
    assert_that(done.source, Equals("scripted://host/fast"))


def test_each_is_read_in_as_many_ranges_as_make_it_faster(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    scripts = spread(
        one=throttled(0.02, version="a", parallel_reads=4),
        two=throttled(0.02, version="b", parallel_reads=3),
        three=throttled(0.02, parallel_reads=4),
    )
    download(broker, tmp_path)
    most = [script.most_alive for script in scripts]
    assert_that(most[0], GreaterThan(1))
    assert_that(most[1], GreaterThan(1))
    assert_that(most[2], Equals(1))  # nothing proves that its ranges are of one version


@pytest.mark.parametrize("tuning", [tuned(many_locations_from=len(DATA))], indirect=True, ids=[""])
def test_a_small_image_is_read_from_one(broker: imagebroker.Broker, tmp_path: Path) -> None:
    _, second = spread(one=Script(DATA, chunk=MIB), two=Script(DATA, chunk=MIB))
    download(broker, tmp_path)
    assert_that(second.opened, Equals(0))


@pytest.mark.promise("several-locations")
@pytest.mark.parametrize(
    "bad",
    [
        throttled(open_error=PolicyViolation("not there")),
        throttled(open_error=BackendError("in trouble")),
        throttled(data=DATA[:-1]),
        throttled(breaks=[(0, TransferError("cut"))] * 9),
        throttled(breaks=[(0, RangeIgnored("200 to a range"))] * 9),
    ],
    ids=["refused", "in trouble", "another size", "breaks", "ignores ranges"],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_bad_one_is_left_out(
    bad: Script, first: bool, broker: imagebroker.Broker, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    bad.breaks = list(bad.breaks)
    good = {"good": throttled(), "too": throttled()}
    spread(**({"bad": bad} | good if first else good | {"bad": bad}))
    done = download(broker, tmp_path)
    assert_that(set(done.served) - {"scripted://host/bad"}, Equals({
        "scripted://host/good", "scripted://host/too"
    }))  # fmt: skip
    assert_that(IMAGES[UUID].reads, Equals([]))
    assert_that(caplog.text, Contains("scripted://host/bad"))


def test_one_that_cannot_begin_in_the_middle_sends_all_or_nothing(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    spread(good=throttled(), whole=throttled(seekable=False), too=throttled())
    done = download(broker, tmp_path)
    assert_that(sorted(done.served), Equals(["scripted://host/good", "scripted://host/too"]))
    (tmp_path / "image").unlink()
    spread(whole=throttled(0.001, seekable=False), good=throttled(0.001))
    assert_that(download(broker, tmp_path).served, Equals({"scripted://host/whole": len(DATA)}))


@pytest.mark.promise("several-locations")
def test_what_one_leaves_unsent_when_it_falls_silent_is_taken_over(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    gate = threading.Event()

    def fall_silent(offset: int) -> None:
        time.sleep(0.01)
        if offset > 2 * MIB:
            gate.wait(HANGS)

    silent = Script(DATA, chunk=64 * 1024, before_chunk=fall_silent, on_close=gate.set)
    spread(silent=silent, good=throttled())
    began = time.monotonic()
    download(broker, tmp_path, stall_timeout=HANGS)
    assert_that(time.monotonic() - began, in_time(10))


def test_one_that_cannot_be_opened_in_time_is_not_waited_for(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    gate = threading.Event()
    hanging = throttled(before_open=lambda: gate.wait(HANGS) and None)
    spread(good=throttled(0.002), hanging=hanging)
    began = time.monotonic()
    done = download(broker, tmp_path)
    assert_that(time.monotonic() - began, in_time(10))
    assert_that(set(done.served), Equals({"scripted://host/good"}))
    gate.set()
    ended = time.monotonic() + HANGS
    while not hanging.closed and time.monotonic() < ended:
        time.sleep(0.01)
    assert_that(hanging.closed, Equals(1))  # what is opened too late is let go


def test_ranges_of_one_that_breaks_now_and_then_are_read_again_and_no_others(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    rng = random.Random(9)
    shaky = throttled(0.004)
    sent = 0

    def count(offset: int) -> None:
        nonlocal sent
        time.sleep(0.004)
        sent += 64 * 1024

    shaky.before_chunk = count
    shaky.breaks = [(rng.randrange(len(DATA)), None) for _ in range(8)]
    spread(shaky=shaky, good=throttled(0.008))
    done = download(broker, tmp_path)
    assert_that(sent, LessThan(done.served["scripted://host/shaky"] + 3 * MIB))


@pytest.mark.promise("several-locations")
def test_when_all_of_them_die_the_backend_goes_on_at_the_missing_bytes(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    def die(offset: int) -> None:
        time.sleep(0.004)
        if offset > 4 * MIB:
            raise TransferError("gone")

    spread(**{name: Script(DATA, chunk=64 * 1024, before_chunk=die) for name in ("one", "two")})
    done = download(broker, tmp_path)
    own = done.served[REF]
    assert_that(own, LessThan(len(DATA) - 3 * MIB))
    assert_that(done.source, Equals(REF))
    assert_that(done.resumed_from, GreaterThan(0))


@pytest.mark.promise("several-locations")
@pytest.mark.parametrize("lie", [DATA[:MIB] + b"?" * (len(DATA) - MIB), DATA[:-1] + b"?"])
def test_if_the_whole_has_another_digest_the_backend_sends_all_of_it(
    lie: bytes, broker: imagebroker.Broker, tmp_path: Path
) -> None:
    spread(one=throttled(0.002, data=lie), two=throttled(0.002, data=lie))
    done = download(broker, tmp_path)
    assert_that(done.served, Equals({REF: len(DATA)}))
    assert_that(IMAGES[UUID].reads, Equals([0]))


def test_if_one_changes_nothing_of_theirs_is_kept(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    changed = throttled(breaks=[(3 * MIB, ImageChanged("another ETag"))])
    spread(changed=changed, good=throttled())
    download(broker, tmp_path)


def test_the_checksum_of_the_backend_itself_is_the_last_word(
    broker: imagebroker.Broker, tmp_path: Path
) -> None:
    spread(one=throttled(0.001, data=DATA[::-1]), two=throttled(0.001, data=DATA[::-1]))
    IMAGES[UUID].data = DATA[::-1]
    with pytest.raises(ChecksumMismatch):
        broker.download(None, REF, tmp_path / "image")
    assert_that((tmp_path / "image").exists(), Equals(False))
