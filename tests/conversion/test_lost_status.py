"""A conversion that failed is never taken for a success because its exit status was lost."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, StartsWith

from tests.bounds import HANGS
from tests.conversion.disks import DISK, made

ROOT = Path(__file__).parents[2]
#: A service that downloads with imagebroker, in a state that `{}` makes.
SERVICE = """
import os, signal, sys, threading, time
import imagebroker

{}
broker = imagebroker.Broker.from_config(sys.argv[1])
try:
    broker.download(None, sys.argv[2], "out", convert="raw")
    print("done")
except imagebroker.ImageBrokerError as error:
    print(type(error).__name__, error)
"""
IGNORES = "signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
COLLECTS = """
def collect():
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(0.001)
threading.Thread(target=collect, daemon=True).start()
"""


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    image = made("qcow2-compressed", tmp_path)
    (tmp_path / "sound.qcow2").write_bytes(image)
    return tmp_path / "sound.qcow2"


@pytest.fixture
def damaged(sound: Path) -> Path:
    """The last compressed cluster cannot be decompressed: what comes before it is written, flushed,
    and all that is wrong is the exit status."""
    image = bytearray(sound.read_bytes())
    (first,) = struct.unpack_from(">Q", image, 40)
    (second,) = struct.unpack_from(">Q", image, first)
    table = struct.unpack_from(">8192Q", image, second & 0x00FFFFFFFFFFFE00)
    at = [each & ((1 << 54) - 1) for each in table if each >> 62 & 1][-1]
    image[at : at + 40] = b"\xff" * 40
    path = sound.with_name("damaged.qcow2")
    path.write_bytes(image)
    return path


def command(image: Path) -> int:
    """The status of the command, started by a program that ignores SIGCHLD."""
    return subprocess.run(
        ["sh", "-c", "trap '' CHLD; exec \"$0\" \"$@\"", sys.executable, "-m", "imagebroker",
         "download", "--convert", "raw", f"file://{image}", "out"],
        cwd=image.parent, env={"PATH": os.environ["PATH"], "HOME": str(image.parent)},
        check=False, timeout=HANGS, capture_output=True,
    ).returncode  # fmt: skip


def service(image: Path, state: str) -> str:
    config = image.with_name("imagebroker.conf")
    config.write_text(
        "[imagebroker]\nenabled_schemes = file\n[backend:file]\n"
        f"store_dir = {image.parent}/store\nallowed_paths = {image.parent}\n"
    )
    return subprocess.run(
        [sys.executable, "-c", SERVICE.format(state), config, f"file://{image}"],
        cwd=image.parent, env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True, timeout=HANGS, capture_output=True, text=True,
    ).stdout  # fmt: skip


def test_the_command_knows_it_whoever_started_it(sound: Path, damaged: Path) -> None:
    assert_that(command(damaged), Equals(6))
    assert_that((sound.parent / "out").exists(), Is(False))
    assert_that(command(sound), Equals(0))
    assert_that((sound.parent / "out").read_bytes() == DISK, Is(True))


def test_a_service_that_ignores_sigchld_is_told_so(sound: Path) -> None:
    said = service(sound, IGNORES)
    assert_that(said, StartsWith("UnsupportedOperation"))
    assert_that(said, Contains("ignores SIGCHLD"))
    assert_that((sound.parent / "out").exists(), Is(False))


def test_in_a_service_that_collects_every_child_a_failure_is_none_the_less(damaged: Path) -> None:
    said = service(damaged, COLLECTS)
    assert_that(said.partition(" ")[0] in ("UnsupportedOperation", "FormatError"), Is(True), said)
    assert_that((damaged.parent / "out").exists(), Is(False))
