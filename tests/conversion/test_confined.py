"""What converts an image reads that image and nothing else, whatever the image makes it do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, Not, StartsWith

from imagebroker.exceptions import UnsupportedOperation
from imagebroker.system.confined import Confinement, Program
from tests.bounds import HANGS
from tests.conftest import Scripted
from tests.conversion.disks import DISK, made
from tests.conversion.programs import path_with, path_without, running

pytestmark = pytest.mark.promise("security-5")

MEMORY = 2 << 30


def tried(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, memory: int = MEMORY, **how: Any
) -> tuple[int, str]:
    """The status and the output of a shell script that runs confined, with the file `image`."""
    monkeypatch.setenv("PATH", path_with(folder / "bin", text))
    (folder / "image").write_bytes(b"the image\n")
    program = Program("qemu-img", "qemu-utils", Confinement(memory, **how))
    with (folder / "image").open("rb") as file:
        with program.start(["convert"], reads=file.fileno(), output=True) as started:
            status, found = started.answer(1 << 20, lambda: None)
            return status, found.decode() + started.said


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("hunter2\n")
    return tmp_path / "secret"


def test_it_reads_the_image_and_writes_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [f"{folder}/imagebroker-{os.getpid()}" for folder in ("/tmp", "/usr", "")]
    text = (
        "cat /image\n"
        "echo changed >/image; (: >/image); rm -f /image; mv /image /other\n"
        "for fd in /proc/[0-9]*/fd/*; do (: >$fd); done 2>/dev/null\n"
        "for fd in /proc/self/fd/*; do test -f $fd && readlink $fd; done\n"
        f"for new in {' '.join(places)}; do (echo x >$new); done; echo end"
    )
    _, said = tried(tmp_path, monkeypatch, text)
    assert_that(said, StartsWith("the image\nend\n"))  # between them: what else is open
    assert_that((tmp_path / "image").read_bytes(), Equals(b"the image\n"))
    for path in places:
        assert_that(Path(path).exists(), Is(False))


@pytest.mark.parametrize(
    "attempt",
    [
        "cat {secret}",
        "cat /proc/1/root{secret}",
        "cat /proc/{pid}/root{secret}",
        "cat /proc/{pid}/environ",
        "cat /proc/self/cwd/{secret}",
        "cat /image/..{secret}",
        "cat /etc/shadow",
        "cat /etc/passwd",
        "ls /root",
        "kill -0 {pid}",
        "mkdir /mine && mount -t tmpfs none /mine",
        "cat /sys/class/net/lo/address",
    ],
)
def test_it_reaches_nothing_else(
    attempt: str, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUNTER", "hunter2")
    named = attempt.format(secret=secret, pid=os.getpid())
    status, said = tried(tmp_path, monkeypatch, f"{named} && echo reached")
    assert_that(said, Not(Contains("hunter2")))
    assert_that(said, Not(Contains("reached")))
    assert_that(status, Not(Equals(0)))


def test_it_has_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connect = f"exec 3<>/dev/tcp/127.0.0.1/{port} && echo reached"
        _, said = tried(tmp_path, monkeypatch, f"bash -c '{connect}'; cat /proc/net/dev")
    assert_that(said, Not(Contains("reached")))
    assert_that(said, Not(Contains("eth0")))


def test_its_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "exec head -c 300M /dev/zero | tail -c 300M | wc -c"
    _, said = tried(tmp_path, monkeypatch, text, memory=100 << 20)
    assert_that(said, Contains("memory"))


def test_another_file_that_got_the_name_meanwhile_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin", "cat /image"))
    program = Program("qemu-img", "qemu-utils", Confinement(MEMORY))
    (tmp_path / "image").write_text("the image")
    with (tmp_path / "image").open("rb") as file:
        # bubblewrap finds the mount's source by name: here the name is that of another file, as
        # if somebody had renamed it in this moment.
        (tmp_path / "bin" / "bwrap").unlink()
        real = subprocess.run(["sh", "-c", "command -v bwrap"], env={"PATH": "/usr/bin:/bin"},
                              capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
        (tmp_path / "other").write_text("another")
        (tmp_path / "bin" / "bwrap").write_text(
            f'#!/bin/sh\nmv {tmp_path}/other {tmp_path}/image\nexec {real} "$@"\n'
        )
        (tmp_path / "bin" / "bwrap").chmod(0o755)
        renamed = f'for word; do shift; test "$word" = /proc/self/fd/0 && word={tmp_path}/image; '
        renamed += 'set -- "$@" "$word"; done\n'
        script = (tmp_path / "bin" / "bwrap").read_text().replace("exec", renamed + "exec")
        (tmp_path / "bin" / "bwrap").write_text(script)
        with program.start(["convert"], reads=file.fileno(), output=True) as started:
            status, found = started.answer(1 << 20, lambda: None)
    assert_that((status == 0, found), Equals((False, b"")))


@pytest.mark.parametrize(
    ("missing", "hint"),
    [("qemu-img", "install qemu-utils"), ("bwrap", "install bubblewrap"),
     ("prlimit", "install util-linux")],
)  # fmt: skip
def test_what_is_missing_is_named_before_the_image_is_fetched(
    missing: str, hint: str, scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = made("qcow2", tmp_path)
    monkeypatch.setenv("PATH", path_without(tmp_path / "bin", missing))
    offsets: list[int] = []
    ref, _ = scripted.image(image, chunk=4096, before_chunk=offsets.append)
    with pytest.raises(UnsupportedOperation) as caught:
        scripted.broker.download(None, ref, tmp_path / "out", convert="raw")
    assert_that(str(caught.value), Contains(f"{missing} is not installed"))
    assert_that(caught.value.hint, Contains(hint))
    assert_that(caught.value.retryable, Is(False))
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "out"))]
    assert_that(left, Equals([]))


def test_where_namespaces_are_not_allowed_it_is_refused_and_says_why(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = made("qcow2", tmp_path)
    monkeypatch.setenv("PATH", path_without(tmp_path / "bin", "bwrap"))
    (tmp_path / "bin" / "bwrap").write_text("#!/bin/sh\necho 'No permissions' >&2\nexit 1\n")
    (tmp_path / "bin" / "bwrap").chmod(0o755)
    ref, _ = scripted.image(image, chunk=100_000)
    with pytest.raises(UnsupportedOperation) as caught:
        scripted.broker.download(None, ref, tmp_path / "out", convert="raw")
    assert_that(str(caught.value), Contains("No permissions"))
    assert_that(caught.value.hint, Contains("convert_unconfined"))


@pytest.mark.parametrize("how", ["missing", "broken"])
def test_the_deployer_may_do_without(
    how: str, scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = made("qcow2", tmp_path)
    monkeypatch.setenv("PATH", path_without(tmp_path / "bin", "bwrap"))
    if how == "broken":
        (tmp_path / "bin" / "bwrap").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "bin" / "bwrap").chmod(0o755)
    ref, _ = scripted.image(image, chunk=100_000)
    scripted.configured("convert_unconfined = true")
    scripted.broker.download(None, ref, tmp_path / "out", convert="raw")
    assert_that((tmp_path / "out").read_bytes() == DISK, Is(True))


PARENT = """
import sys, time
from imagebroker.system.confined import Confinement, Program
program = Program("qemu-img", "qemu-utils", Confinement(2 << 30, required=sys.argv[2] == "walls"))
with open(sys.argv[1], "rb") as file:
    with program.start([sys.argv[3]], reads=file.fileno(), output=True) as started:
        while not (said := started.answer(1, lambda: print("waiting", flush=True))):
            pass
"""


@pytest.mark.parametrize("walls", ["walls", "none"])
def test_it_dies_with_the_process_that_started_it(
    walls: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = path_with(tmp_path / "bin", "sleep 1000")
    if walls == "none":
        (tmp_path / "bin" / "bwrap").unlink()
    marker = f"marker-{os.getpid()}-{walls}"
    (tmp_path / "image").write_bytes(b"x")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "image"), walls, marker],
        env={**os.environ, "PATH": path}, stdout=subprocess.PIPE,
    )  # fmt: skip
    with parent:
        assert parent.stdout is not None
        while b"waiting" not in parent.stdout.readline() or len(running(marker)) < 2:
            pass
        parent.send_signal(signal.SIGKILL)
        parent.wait(HANGS)
    while running(marker):
        pass  # the kernel kills them; should it not, the test's time limit ends this
