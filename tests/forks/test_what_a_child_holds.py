"""A child that lives on, as a daemon does, holds nothing of its parent's: no lock, no memory."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan

from imagebroker.exceptions import Cancelled
from imagebroker.system import forks
from imagebroker.transfer.layers.flights import Flight, FlightsOnDisk
from imagebroker.transfer.store.direct import DirectIO, DirectWriter
from tests.bounds import HANGS
from tests.conftest import Scripted

MIB = 1024 * 1024
DATA = random.Random(3).randbytes(8 * MIB)

ORPHAN = """
import os, random, signal, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
sys.path[:0] = {path!r}
import imagebroker
from imagebroker.config.settings import Settings
from imagebroker.config.tuning import Tuning
from tests.scripted import IMAGES, Script
sent, child = 0, 0

def before_chunk(offset):
    time.sleep(0.01)  # so that what has come is stored, and noted
    if child and offset > 6_000_000:
        os.kill(os.getpid(), signal.SIGKILL)

def progress(told):
    global child
    if told.done > 3_000_000 and not child:
        child = os.fork()
        if not child:
            time.sleep(600)
        print(child, flush=True)

IMAGES["/image"] = Script(
    random.Random(3).randbytes({size}), chunk=65536, version="v1", before_chunk=before_chunk
)
tuning = Tuning(journal_every=0.0)
broker = imagebroker.Broker(Settings.from_file({config!r}, tuning=tuning))
broker.download(None, "scripted://host/image", {dest!r}, keep_partial=True, progress=progress)
"""


@pytest.fixture
def in_child() -> Iterator[Callable[[Callable[[], object]], int]]:
    def run(work: Callable[[], object]) -> int:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                work()
                status = 0
            finally:
                os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    yield run


@pytest.mark.promise("forks")
def test_the_part_of_a_killed_parent_is_taken_up_while_its_child_lives(
    scripted: Scripted, on_path: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    config = tmp_path / "orphan.conf"
    config.write_text(f"[imagebroker]\nenabled_schemes = scripted\nstate_dir = {state}\n")
    program = ORPHAN.format(
        path=[str(on_path), os.getcwd()], config=str(config), size=len(DATA),
        dest=str(tmp_path / "image"),
    )  # fmt: skip
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        assert_that(parent.wait(HANGS), Equals(-signal.SIGKILL))
        scripted.configured(f"state_dir = {state}")
        ref, _ = scripted.image(DATA, "/image", version="v1", chunk=65536)
        done = scripted.broker.download(None, "scripted://host/image", tmp_path / "image")
        assert_that(done.resumed_from, GreaterThan(0))
        assert_that((tmp_path / "image").read_bytes() == DATA, Equals(True))
        os.kill(child, 0)  # it is still there
    finally:
        os.kill(child, signal.SIGKILL)
        parent.stdout.close()
    assert ref


@pytest.mark.promise("forks")
def test_a_child_does_not_let_go_of_its_parents_slot(
    tmp_path: Path, in_child: Callable[[Callable[[], object]], int]
) -> None:
    slots = FlightsOnDisk(tmp_path / "state")
    slot = Flight(slots, "image")
    assert_that(slot.lock(), Equals(True))
    assert_that(in_child(slot.close), Equals(0))
    other = Flight(slots, "image")
    assert_that(other.lock(), Equals(False))
    other.close()
    slot.close()


@pytest.mark.promise("forks")
def test_what_a_child_gathers_does_not_reach_its_parents_file(tmp_path: Path) -> None:
    """The memory in which bytes wait for the disk is one that processes may share."""
    with (tmp_path / "image").open("w+b", buffering=0) as file:
        writer = DirectWriter(file.fileno(), -1, DirectIO(pace=0))
        writer.write(0, memoryview(b"parent "))
        now, ready = os.pipe()
        if not (child := os.fork()):
            os.read(now, 1)
            writer.write(7, memoryview(b"a child"))
            os._exit(0)
        writer.write(7, memoryview(b"goes on"))
        os.write(ready, b"!")
        assert_that(os.waitpid(child, 0)[1], Equals(0))
        os.close(now)
        os.close(ready)
        writer.flush()
        writer.close()
        assert_that((tmp_path / "image").read_bytes(), Equals(b"parent goes on"))


def test_a_withheld_descriptor_is_dead_in_a_child_and_its_number_is_taken(
    tmp_path: Path, in_child: Callable[[Callable[[], object]], int]
) -> None:
    fd = forks.withhold(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600))

    def use() -> None:
        for call in (
            lambda: os.write(fd, b"child"), lambda: os.ftruncate(fd, 0), lambda: os.lseek(fd, 0, 2),
            lambda: os.unlink("file", dir_fd=fd),
        ):  # fmt: skip
            with pytest.raises(OSError, match=r"Bad|Not"):
                call()
        other = os.open(tmp_path / "file", os.O_RDONLY)
        assert other != fd
        os.close(fd)

    os.write(fd, b"parent")
    assert_that(in_child(use), Equals(0))
    os.write(fd, b" goes on")
    forks.release(fd)
    assert_that((tmp_path / "file").read_bytes(), Equals(b"parent goes on"))


def test_a_released_descriptor_is_forgotten(
    tmp_path: Path, in_child: Callable[[Callable[[], object]], int]
) -> None:
    """Its number, and even its inode, may be somebody else's next."""
    fd = forks.withhold(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600))
    forks.release(fd)
    again = os.open(tmp_path / "file", os.O_RDWR)
    assert_that(again, Equals(fd))
    assert_that(in_child(lambda: os.write(fd, b"child")), Equals(0))
    os.close(fd)
    assert_that((tmp_path / "file").read_bytes(), Equals(b"child"))


def test_a_condition_that_a_lost_thread_has_can_be_used_in_a_child(
    in_child: Callable[[Callable[[], object]], int],
) -> None:
    import threading

    condition = forks.Condition()
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with condition:
            held.set()
            over.wait()

    def use() -> None:
        with condition, pytest.raises(Cancelled):
            condition.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        assert_that(in_child(use), Equals(0))
    finally:
        over.set()
        thread.join()
