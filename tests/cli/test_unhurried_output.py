"""Output in non-blocking mode, as some programs hand it to their children, gets every byte of a text."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan

from tests.bounds import HANGS
from tests.cli.conftest import Shell

ETC = Path(__file__).parents[2] / "etc"
#: What commands print, as other tests hold it to be.
TEXTS = {
    "config sample": ETC / "imagebroker" / "imagebroker.conf",
    "complete --shell bash": ETC / "bash-completion" / "imagebroker",
}
#: Bytes that a pipe holds at least.
PAGE = 4096


def pipe() -> tuple[int, int]:
    """One that holds no more than it must; its end to write is in non-blocking mode."""
    theirs, ours = os.pipe()
    fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, PAGE)
    os.set_blocking(ours, False)
    return theirs, ours


def connection() -> tuple[int, int]:
    theirs, ours = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PAGE)
    ours.setblocking(False)
    return theirs.detach(), ours.detach()


def fill(fd: int) -> int:
    """So that nothing more fits; how many bytes that took."""
    count = 0
    try:
        while True:
            count += os.write(fd, b"." * PAGE)
    except BlockingIOError:
        return count


def run(
    shell: Shell, make: Callable[[], tuple[int, int]], number: int, *argv: str, unbuffered: str
) -> tuple[int, bytes]:
    """The status, and what came out of a full descriptor that is read once the command waits."""
    theirs, ours = make()
    filled = fill(ours)
    other = {1: "stderr", 2: "stdout"}[number]
    this = {1: "stdout", 2: "stderr"}[number]
    with subprocess.Popen(
        [sys.executable, "-m", "imagebroker", *argv],
        cwd=shell.work, env={**shell.environment, "PYTHONUNBUFFERED": unbuffered},
        **{this: ours, other: subprocess.DEVNULL},
    ) as process:  # fmt: skip
        os.close(ours)
        try:
            process.wait(1)  # with nobody to read it must still be there
        except subprocess.TimeoutExpired:
            pass
        with open(theirs, "rb") as file:
            text = file.read()
        return process.wait(HANGS), text[filled:]


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("make", [pipe, connection])
@pytest.mark.parametrize("argv", TEXTS)
def test_a_long_text_comes_whole(
    shell: Shell, make: Callable[[], tuple[int, int]], argv: str, unbuffered: str
) -> None:
    whole = TEXTS[argv].read_bytes()
    assert_that(len(whole), GreaterThan(PAGE))
    found = run(shell, make, 1, *argv.split(), unbuffered=unbuffered)
    assert_that(found, Equals((0, whole)))


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_an_error_waits_for_whoever_reads_it(shell: Shell, unbuffered: str) -> None:
    status, text = run(shell, pipe, 2, "show", "file:///nowhere", unbuffered=unbuffered)
    assert_that(status, Equals(3))
    assert_that(text.decode(), Contains("/nowhere"))
