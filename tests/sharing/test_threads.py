"""Downloads of one image at the same time, in threads: one transfer, and nobody depends on it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, HasLength, LessThan, Not

import imagebroker
from imagebroker.exceptions import (
    Cancelled,
    ChecksumMismatch,
    ImageBrokerError,
    NotAuthorized,
    RangeIgnored,
    TransferError,
)
from tests.conftest import Scripted
from tests.scripted import Script

MIB = 1 << 20
CHUNK = 64 * 1024
DATA = random.Random(3).randbytes(MIB) * 2 + b"the end"
DIGEST = hashlib.sha256(DATA).hexdigest()
CHECKSUM = f"sha256:{DIGEST}"
#: Byte at which a leader is held back.
GATE = MIB


class Gate:
    """Holds a source back at one byte of the image until it is opened; others pass."""

    def __init__(self, at: int = GATE, *, times: int = 1) -> None:
        self.at, self._left = at, times
        self.reached, self.opened = threading.Event(), threading.Event()
        self._lock = threading.Lock()

    def __call__(self, offset: int) -> None:
        with self._lock:
            if offset < self.at or not self._left:
                return
            self._left -= 1
        self.reached.set()
        assert_that(self.opened.wait(60), Equals(True))


class Followers:
    """Calls in threads, and what they reported."""

    def __init__(self, pool: ThreadPoolExecutor, folder: Path) -> None:
        self._pool, self._folder = pool, folder
        self.calls: list[Future[imagebroker.Download]] = []
        self.paths: list[Path] = []
        self.done: list[threading.Event] = []

    def start(
        self, broker: imagebroker.Broker, ref: str, *, context: Any = None, **how: Any
    ) -> Future[imagebroker.Download]:
        """A download; `done[n]` is set when it has stored something, but not the whole."""
        seen = threading.Event()
        dest = self._folder / f"image-{len(self.calls)}"
        own: Callable[[Any], None] = how.pop("progress", lambda progress: None)

        def progress(now: Any) -> None:
            if now.phase == "transfer" and now.done:
                seen.set()
            own(now)

        call = self._pool.submit(broker.download, context, ref, dest, progress=progress, **how)
        self.calls.append(call)
        self.paths.append(dest)
        self.done.append(seen)
        return call

    def wait_until_all_have_some(self, first: int = 0) -> None:
        for seen in self.done[first:]:
            assert_that(seen.wait(60), Equals(True))


@pytest.fixture
def calls(tmp_path: Path) -> Any:
    with ThreadPoolExecutor(32) as pool:
        yield Followers(pool, tmp_path)


def image(scripted: Scripted, gate: Gate | None = None, **how: Any) -> tuple[str, Script]:
    how = {"version": "v1", "chunk": CHUNK} | how
    return scripted.image(DATA, before_chunk=gate or (lambda offset: None), **how)


def slowly(gate: Gate) -> Callable[[int], None]:
    """A source that is slow once its gate was reached, as large images are."""

    def before(offset: int) -> None:
        gate(offset)
        if gate.reached.is_set():
            time.sleep(0.04)

    return before


def whole(script: Script) -> int:
    """How many reads went beyond the first byte that a probe asks for."""
    return len(script.spans) - sum(stop == 1 for _, stop in script.spans)


def led(scripted: Scripted, calls: Followers, ref: str, gate: Gate, **how: Any) -> Any:
    """A call that transfers, and is held back in the middle."""
    call = calls.start(scripted.broker, ref, **how)
    assert_that(gate.reached.wait(60), Equals(True))
    return call


@pytest.mark.promise("bytes-move-once")
def test_sixteen_calls_read_the_image_once_and_each_verifies_its_own_copy(
    scripted: Scripted, calls: Followers
) -> None:
    gate = Gate()
    ref, script = image(scripted, gate)
    for _ in range(16):
        calls.start(scripted.broker, ref)
    calls.wait_until_all_have_some()  # nobody has to wait for the end
    gate.opened.set()
    for call, path in zip(calls.calls, calls.paths, strict=True):
        assert_that(call.result(60).evidence["sha256"], Equals(DIGEST))
        assert_that(path.read_bytes() == DATA, Equals(True))
    assert_that(whole(script), Equals(1))
    assert_that(script.closed, Equals(script.opened))


@pytest.mark.promise("C34")
def test_one_call_alone_asks_for_nothing_more_than_before(
    scripted: Scripted, tmp_path: Path
) -> None:
    ref, script = image(scripted)
    scripted.broker.download(None, ref, tmp_path / "image")
    assert_that(script.opened, Equals(1))
    assert_that(script.spans, Equals([(0, None)]))


@pytest.mark.promise("C34", "no-bytes-of-others")
def test_who_may_see_the_image_but_not_read_it_gets_no_byte(
    scripted: Scripted, calls: Followers
) -> None:
    gate = Gate()

    def only_owner(context: Any) -> None:
        if context != "owner":
            raise NotAuthorized("the role reader may not download")

    ref, _ = image(scripted, gate, may_read=only_owner, checksums={"sha256": DIGEST})
    leader = led(scripted, calls, ref, gate, context="owner")
    refused = calls.start(scripted.broker, ref, context="reader")
    assert_that(refused.exception(60), Not(Equals(None)))
    assert_that(type(refused.exception()), Equals(NotAuthorized))
    assert_that(calls.paths[1].exists(), Equals(False))
    assert_that(calls.done[1].is_set(), Equals(False))
    gate.opened.set()
    leader.result(60)


@pytest.mark.promise("no-bytes-of-others")
def test_another_version_is_read_by_itself_and_shared_too(
    scripted: Scripted, calls: Followers
) -> None:
    old_gate, new_gate = Gate(), Gate()
    ref, old = image(scripted, old_gate)
    first = led(scripted, calls, ref, old_gate)
    newer = DATA[::-1]
    _, new = scripted.image(newer, version="v2", chunk=CHUNK, before_chunk=new_gate)
    for _ in range(3):
        calls.start(scripted.broker, ref)
    calls.wait_until_all_have_some()
    new_gate.opened.set()
    for call, path in zip(calls.calls[1:], calls.paths[1:], strict=True):
        call.result(60)
        assert_that(path.read_bytes() == newer, Equals(True))
    assert_that(whole(new), Equals(1))
    old_gate.opened.set()
    first.result(60)
    assert_that(calls.paths[0].read_bytes() == DATA, Equals(True))
    assert_that(whole(old), Equals(1))


@pytest.mark.promise("no-bytes-of-others", "two-tenants")
@pytest.mark.parametrize(
    ("how", "call", "reads"),
    [
        ({"version": None}, {}, 3),
        ({"version": None}, {"checksum": CHECKSUM}, 3),  # the caller's word is no proof
        ({"version": None, "checksums": {"sha256": DIGEST}}, {}, 1),
        ({"version": None, "checksums": {"md5": "0" * 32}}, {}, 3),
        ({"version": None, "size": None}, {"checksum": CHECKSUM}, 3),
    ],
)
def test_without_proof_that_it_is_the_same_each_call_reads_for_itself(
    scripted: Scripted, calls: Followers, how: Any, call: Any, reads: int
) -> None:
    gate = Gate(times=reads)
    ref, script = image(scripted, gate, **how)
    for _ in range(3):
        calls.start(scripted.broker, ref, **call)
    calls.wait_until_all_have_some()
    gate.opened.set()
    for each in calls.calls:
        each.result(60)
    assert_that(whole(script), Equals(reads))


def test_where_sharing_is_off_each_call_reads_for_itself(
    scripted: Scripted, calls: Followers
) -> None:
    scripted.configured("share_downloads = false")
    gate = Gate(times=3)
    ref, script = image(scripted, gate)
    for _ in range(3):
        calls.start(scripted.broker, ref)
    calls.wait_until_all_have_some()
    gate.opened.set()
    for each in calls.calls:
        each.result(60)
    assert_that(script.spans, Equals([(0, None)] * 3))


@pytest.mark.promise("independent-calls")
@pytest.mark.parametrize("how", ["cancelled", "broken", "interrupted"])
def test_when_the_one_that_transfers_ends_one_other_takes_over(
    scripted: Scripted, calls: Followers, how: str
) -> None:
    gate, cancel = Gate(), threading.Event()
    ref, script = image(scripted, gate)
    script.before_chunk = slowly(gate)
    if how == "broken":
        script.breaks = [(GATE + 5, TransferError("gone for good", retryable=False))]
    stop = threading.Event()

    def progress(now: Any) -> None:
        if how == "interrupted" and stop.is_set():
            raise KeyboardInterrupt

    leader = led(scripted, calls, ref, gate, cancel=cancel, progress=progress)
    for _ in range(6):
        calls.start(scripted.broker, ref)
    calls.wait_until_all_have_some()
    before = len(script.spans)
    if how == "cancelled":
        cancel.set()
    stop.set()
    gate.opened.set()
    expected = {"cancelled": Cancelled, "broken": TransferError, "interrupted": KeyboardInterrupt}
    assert_that(type(leader.exception(60)), Equals(expected[how]))
    for call, path in zip(calls.calls[1:], calls.paths[1:], strict=True):
        call.result(60)
        assert_that(path.read_bytes() == DATA, Equals(True))
    assert_that(len(script.spans) - before, LessThan(4))  # one, or a few on a busy machine


def test_what_one_call_demands_in_vain_is_no_matter_of_the_others(
    scripted: Scripted, calls: Followers
) -> None:
    gate = Gate()
    ref, _ = image(scripted, gate)
    leader = led(scripted, calls, ref, gate, checksum="sha256:" + "0" * 64)
    for checksum in (None, CHECKSUM, "sha512:" + hashlib.sha512(DATA).hexdigest()):
        calls.start(scripted.broker, ref, checksum=checksum)
    gate.opened.set()
    assert_that(type(leader.exception(60)), Equals(ChecksumMismatch))
    for call, path in zip(calls.calls[1:], calls.paths[1:], strict=True):
        call.result(60)
        assert_that(path.read_bytes() == DATA, Equals(True))


@pytest.mark.promise("independent-calls")
def test_each_call_holds_what_it_follows_to_its_own_demands(
    scripted: Scripted, calls: Followers
) -> None:
    gate = Gate()
    ref, _ = image(scripted, gate)
    leader = led(scripted, calls, ref, gate)
    wrong = calls.start(scripted.broker, ref, checksum="sha256:" + "0" * 64)
    large = calls.start(scripted.broker, ref, max_size=1000)
    other = calls.start(scripted.broker, ref, allowed_formats=["qcow2"])
    assert_that(type(large.exception(60)).__name__, Equals("TooLarge"))
    gate.opened.set()
    assert_that(type(wrong.exception(60)), Equals(ChecksumMismatch))
    assert_that(type(other.exception(60)).__name__, Equals("FormatError"))
    leader.result(60)
    assert_that([path.exists() for path in calls.paths], Equals([True, False, False, False]))


@pytest.mark.promise("independent-calls")
def test_wrong_bytes_that_were_followed_are_dropped_and_the_image_is_read(
    scripted: Scripted, calls: Followers
) -> None:
    """Without a checksum of its own, the one that leads does not notice what a follower does."""
    gate = Gate()
    ref, script = image(scripted, gate)
    damaged = bytearray(DATA)
    damaged[7] ^= 1
    script.data = bytes(damaged)
    leader = led(scripted, calls, ref, gate)
    script.data = DATA
    script.before_chunk = lambda offset: None
    follower = calls.start(scripted.broker, ref, checksum=CHECKSUM)
    calls.wait_until_all_have_some()
    gate.opened.set()
    leader.result(60)
    assert_that(follower.result(60).evidence["sha256"], Equals(DIGEST))
    assert_that(calls.paths[1].read_bytes() == DATA, Equals(True))


def test_an_unsafe_format_that_was_followed_is_no_verdict_on_the_image(
    scripted: Scripted, calls: Followers
) -> None:
    gate = Gate()
    scripted.configured("inspect_formats = false")
    ref, script = image(scripted, gate)
    script.data = b"QFI\xfb" + DATA[4:]
    leader = led(scripted, calls, ref, gate)
    script.data = DATA
    follower = calls.start(scripted.broker, ref, allowed_formats=["raw"])
    gate.opened.set()
    leader.result(60)
    follower.result(60)
    assert_that(calls.paths[1].read_bytes() == DATA, Equals(True))


@pytest.mark.promise("independent-calls")
def test_a_transfer_that_stalls_is_given_up_by_those_who_follow_and_one_of_them_leads(
    scripted: Scripted, calls: Followers
) -> None:
    gate = Gate()
    ref, script = image(scripted, gate)
    script.before_chunk = slowly(gate)
    leader = led(scripted, calls, ref, gate)
    for _ in range(4):
        calls.start(scripted.broker, ref, stall_timeout=1.0)
    for call, path in zip(calls.calls[1:], calls.paths[1:], strict=True):
        call.result(60)
        assert_that(path.read_bytes() == DATA, Equals(True))
    assert_that(whole(script), LessThan(5))  # the one that stalls, and one or a few in a bad moment
    gate.opened.set()
    leader.result(60)


def test_a_transfer_that_begins_again_makes_those_who_follow_begin_again(
    scripted: Scripted, calls: Followers
) -> None:
    gate = Gate()
    ref, script = image(scripted, gate)
    script.breaks = [(GATE + CHUNK, None)]
    leader = led(scripted, calls, ref, gate)
    follower = calls.start(scripted.broker, ref)
    calls.wait_until_all_have_some()
    script.breaks = [(0, RangeIgnored("200 to a range"))]
    gate.opened.set()
    for call, path in zip((leader, follower), calls.paths, strict=True):
        assert_that(call.result(60).evidence["sha256"], Equals(DIGEST))
        assert_that(path.read_bytes() == DATA, Equals(True))


@pytest.mark.promise("independent-calls")
def test_an_image_that_is_written_to_as_soon_as_it_is_in_place_harms_nobody_who_follows(
    scripted: Scripted, calls: Followers
) -> None:
    """A virtual machine may be started from it while others still read: the same inode."""
    large = DATA * 8
    gate = Gate(len(large) - CHUNK)
    ref, _ = scripted.image(large, version="v1", chunk=CHUNK, before_chunk=gate)
    leader = led(scripted, calls, ref, gate)
    held, go_on = threading.Event(), threading.Event()

    def hold(now: Any) -> None:
        if now.phase == "transfer" and now.done and not held.is_set():
            held.set()
            go_on.wait(60)

    follower = calls.start(scripted.broker, ref, progress=hold)
    assert_that(held.wait(60), Equals(True))
    gate.opened.set()
    leader.result(60)
    with calls.paths[0].open("r+b") as file:
        for offset in range(0, len(large), 4096):
            file.seek(offset)
            file.write(b"written by a machine")
    go_on.set()
    follower.result(60)
    assert_that(calls.paths[1].read_bytes() == large, Equals(True))


def test_a_local_file_is_copied_by_everybody_at_once(
    scripted: Scripted, calls: Followers, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(DATA)
    ref, _ = image(scripted, local_path=tmp_path / "source")
    for _ in range(4):
        calls.start(scripted.broker, ref)
    for call, path in zip(calls.calls, calls.paths, strict=True):
        call.result(60)
        assert_that(path.read_bytes() == DATA, Equals(True))


def test_holes_are_followed_too(scripted: Scripted, calls: Followers) -> None:
    sparse = DATA[:MIB] + bytes(3 * MIB)
    gate = Gate(2 * MIB)
    ref, _ = scripted.image(sparse, version="v1", chunk=CHUNK, before_chunk=gate)
    led(scripted, calls, ref, gate)
    calls.start(scripted.broker, ref)
    calls.wait_until_all_have_some()
    gate.opened.set()
    for call, path in zip(calls.calls, calls.paths, strict=True):
        call.result(60)
        assert_that(path.read_bytes() == sparse, Equals(True))
        assert_that(path.stat().st_blocks * 512, LessThan(2 * MIB))


def test_random_deaths_leave_right_bytes_and_nothing_behind(
    scripted: Scripted, calls: Followers, tmp_path: Path
) -> None:
    rng = random.Random(4)
    ref, script = image(scripted)
    script.breaks = [
        (rng.randrange(len(DATA)), TransferError("cut", retryable=rng.random() < 0.5))
        for _ in range(12)
    ]
    for _ in range(24):
        calls.start(scripted.broker, ref, retries=1)
    for call, path in zip(calls.calls, calls.paths, strict=True):
        error = call.exception(60)
        if error is None:
            assert_that(path.read_bytes() == DATA, Equals(True))
        else:
            assert_that(isinstance(error, ImageBrokerError), Equals(True))
            assert_that(path.exists(), Equals(False))
    assert_that([p.name for p in tmp_path.iterdir() if "part" in p.name], HasLength(0))
    files = [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]
    assert_that([name for name in files if "imagebroker-flight" in name], HasLength(0))


@pytest.mark.parametrize("step", ["open", "flock", "fstat"])
def test_a_slot_that_fails_costs_the_sharing_and_not_the_download(
    scripted: Scripted, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor stays, however often; `flock` and `fstat` of the slot alone fail."""
    module: Any = {"open": os, "flock": fcntl, "fstat": os}[step]
    real = getattr(module, step)
    announced = threading.Event()

    def fail(target: Any, *args: Any, **kwargs: Any) -> Any:
        path = target if step == "open" else f"/proc/self/fd/{target}"
        found = os.readlink(path) if str(path).startswith("/proc/self/fd/") else ""
        if "imagebroker-flight" in found:
            announced.set()
        # The download has looked at its own part file before: what fails is the look of its flight.
        of_part = step == "fstat" and announced.is_set() and "imagebroker-part" in found
        if "imagebroker-flight" in found or of_part:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(target, *args, **kwargs)

    ref, _ = scripted.image(DATA, chunk=CHUNK, version="v1")
    scripted.broker.download(None, ref, tmp_path / "first")
    before = len(os.listdir("/proc/self/fd"))
    for number in range(3):
        ref, _ = scripted.image(DATA, f"/image-{number}", chunk=CHUNK, version="v1")
        announced.clear()
        with monkeypatch.context() as patch:
            patch.setattr(module, step, fail)
            scripted.broker.download(None, ref, tmp_path / "image")
        assert_that((tmp_path / "image").read_bytes(), Equals(DATA))
    assert_that(len(os.listdir("/proc/self/fd")), Equals(before))
