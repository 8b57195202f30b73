"""An image that is unsafe, damaged, or made to exhaust its reader ends in an error, and leaves nothing."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is

from imagebroker.exceptions import (
    Cancelled,
    ChecksumMismatch,
    FormatError,
    ImageBrokerError,
    InvalidImageRef,
    TooLarge,
    TransferTimeout,
    UnsupportedOperation,
)
from tests.bounds import HANGS
from tests.conftest import Scripted
from tests.conversion.disks import DISK, MIB, made, sha256
from tests.conversion.programs import INFO, path_with, running

OLD = b"what was there"


def refused(
    scripted: Scripted, folder: Path, image: bytes, kind: type[ImageBrokerError], **how: Any
) -> Any:
    """The error; what was at the destination is still there, and nothing else."""
    (folder / "to").mkdir()
    dest = folder / "to" / "disk"
    dest.write_bytes(OLD)
    ref, _ = scripted.image(image, chunk=100_000, **how.pop("script", {}))
    with pytest.raises(kind) as caught:
        scripted.broker.download(None, ref, dest, convert="raw", **how)
    assert_that(dest.read_bytes(), Equals(OLD))
    assert_that([path.name for path in dest.parent.iterdir()], Equals(["disk"]))
    return caught.value


def test_a_backing_file_is_refused_before_any_program_runs(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(b"s" * MIB)
    command = "qemu-img create -q -f qcow2 -F raw -b secret image"
    subprocess.run(command.split(), cwd=tmp_path, check=True)
    ran = tmp_path / "ran"
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin", f"touch {ran}"))
    error = refused(scripted, tmp_path, (tmp_path / "image").read_bytes(), FormatError)
    assert_that(str(error), Contains("backing file"))


def test_bytes_that_are_not_the_wanted_ones_reach_no_program(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = made("qcow2", tmp_path)
    monkeypatch.setenv("PATH", path_with(tmp_path / "bin", "echo ran >&2; exit 1"))
    wrong = {"checksums": {"sha256": sha256(b"something else")}}
    error = refused(scripted, tmp_path, image, ChecksumMismatch, script=wrong)
    assert_that(str(error), Contains("sha256"))


def test_a_disk_that_is_larger_than_allowed_is_refused(scripted: Scripted, tmp_path: Path) -> None:
    image = made("qcow2", tmp_path)
    error = refused(scripted, tmp_path, image, TooLarge, max_size=len(DISK) - 1)
    assert_that(str(error), Contains(str(len(DISK))))
    assert_that(error.hint, Contains("max_size"))


def test_a_virtual_size_beyond_the_limit_is_refused(scripted: Scripted, tmp_path: Path) -> None:
    command = "qemu-img create -q -f qcow2 image 60T"
    subprocess.run(command.split(), cwd=tmp_path, check=True)
    refused(scripted, tmp_path, (tmp_path / "image").read_bytes(), TooLarge)


def bomb() -> bytes:
    """A qcow2 of 2 GiB whose clusters are all the same one of 2 MiB."""
    cluster, count = 2 * MIB, 1024
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 21, cluster * count, 0, 1, cluster,
        2 * cluster, 1, 0, 0, 0, 0, 0, 4, 104,
    )  # fmt: skip
    clusters = [
        header,
        struct.pack(">Q", 3 * cluster | 1 << 63),
        struct.pack(">Q", 4 * cluster),
        struct.pack(">Q", 5 * cluster) * count,
        struct.pack(">HHHHHH", 1, 1, 1, 1, 1, count),
        b"bomb" * (cluster // 4),
    ]
    return b"".join(each.ljust(cluster, b"\0") for each in clusters)


def test_few_bytes_that_become_very_many_are_refused(scripted: Scripted, tmp_path: Path) -> None:
    error = refused(scripted, tmp_path, bomb(), TooLarge, max_compression_ratio=1)
    assert_that(error.hint, Contains("max_compression_ratio"))


@pytest.mark.parametrize(
    ("kind", "at"), [("qcow2-compressed", 300_000), ("vmdk-stream", 70_000), ("vhdx", 200_000)]
)
def test_damage_behind_the_header_is_an_error_or_what_qemu_img_makes_of_it(
    kind: str, at: int, scripted: Scripted, tmp_path: Path
) -> None:
    image = bytearray(made(kind, tmp_path))
    image[at : at + 4096] = os.urandom(4096)
    ref, _ = scripted.image(bytes(image), chunk=100_000)
    dest = tmp_path / "out"
    try:
        scripted.broker.download(None, ref, dest, convert="raw")
    except FormatError:
        assert_that(dest.exists(), Is(False))
    else:
        assert_that(dest.stat().st_size, Equals(len(DISK)))
    assert_that([each.name for each in tmp_path.iterdir() if each.name[0] == "."], Equals([]))


def test_tables_that_lead_nowhere_are_an_error(scripted: Scripted, tmp_path: Path) -> None:
    image = bytearray(made("qcow2", tmp_path))
    (table,) = struct.unpack_from(">Q", image, 40)
    struct.pack_into(">Q", image, table, 1 << 55 | 1 << 63 | 0x200)
    error = refused(scripted, tmp_path, bytes(image), FormatError)
    assert_that(str(error), Contains("qemu-img cannot convert it"))


@pytest.mark.parametrize(
    ("program", "kind", "said"),
    [
        ("exec sleep 1000", TransferTimeout, "was not converted within 1 s"),
        (INFO + "exec sleep 1000", TransferTimeout, "was not converted within 1 s"),
        (INFO + "kill -KILL $$", FormatError, "cannot convert"),
        (INFO + "exit 0", FormatError, "ended before everything was written"),
        (INFO + "yes x >&2", TransferTimeout, "was not converted within 1 s"),
        ("echo '{\"virtual-size\": 1e99}'", FormatError, "how large"),
        ("echo '{\"virtual-size\": 99999999999}'", FormatError, "in its header"),
        ("yes '['", TransferTimeout, "was not converted within 1 s"),
        ("echo oops >&2; exit 3", FormatError, "oops"),
    ],
)
def test_a_qemu_img_that_fails_hangs_or_lies_ends_in_an_error(
    program: str, kind: type[ImageBrokerError], said: str, scripted: Scripted, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    image = made("qcow2", tmp_path)
    marker = f"marker{os.getpid()}{abs(hash(program))}"
    monkeypatch.setenv("PATH", path_with(tmp_path / marker, program))
    if kind is TransferTimeout:
        scripted.configured("convert_timeout = 1")
    error = refused(scripted, tmp_path, image, kind)
    assert_that(str(error), Contains(said))
    assert_that(running(marker), Equals([]))


def test_a_disk_full_of_data_that_the_file_system_cannot_take_is_an_error(
    scripted: Scripted, tmp_path: Path
) -> None:
    image = made("qcow2-compressed", tmp_path)
    ref, _ = scripted.image(image, chunk=100_000)
    full = tmp_path / "small"
    full.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6M", "none", str(full)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        with pytest.raises(ImageBrokerError) as caught:
            scripted.broker.download(None, ref, full / "disk", convert="raw")
        assert_that(caught.value.id, Equals("destination-error"))
        assert_that(list(full.iterdir()), Equals([]))
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_a_call_that_is_cancelled_ends_the_conversion(
    scripted: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = made("qcow2", tmp_path)
    marker = f"marker{os.getpid()}cancel"
    monkeypatch.setenv("PATH", path_with(tmp_path / marker, INFO + "sleep 1000"))

    class WhenItRuns:
        def is_set(self) -> bool:
            return len(running(marker)) > 1

    refused(scripted, tmp_path, image, Cancelled, cancel=WhenItRuns())
    assert_that(running(marker), Equals([]))


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"convert": "qcow2"}, InvalidImageRef),
        ({"convert": "raw", "check_format": False}, InvalidImageRef),
    ],
)
def test_what_cannot_be_asked_for_is_refused_at_once(
    arguments: dict[str, Any], kind: type[ImageBrokerError], scripted: Scripted, tmp_path: Path
) -> None:
    ref, script = scripted.image(DISK)
    with pytest.raises(kind):
        scripted.broker.download(None, ref, tmp_path / "out", **arguments)
    assert_that(script.opened, Equals(0))


def test_into_a_file_object_nothing_is_converted(scripted: Scripted, tmp_path: Path) -> None:
    ref, script = scripted.image(DISK)
    with (tmp_path / "out").open("wb") as file, pytest.raises(UnsupportedOperation):
        scripted.broker.download(None, ref, file, convert="raw")
    assert_that(script.opened, Equals(0))


PROGRAM = """
import sys
import imagebroker
broker = imagebroker.Broker.from_config(sys.argv[1])
print("begun", flush=True)
broker.download(None, sys.argv[2], sys.argv[3], convert="raw")
"""


def test_kill_9_leaves_no_half_disk_and_no_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next download removes what it left."""
    (tmp_path / "image.qcow2").write_bytes(made("qcow2", tmp_path))
    folder = tmp_path / "to"
    folder.mkdir()
    (folder / "disk").write_bytes(OLD)
    config = tmp_path / "broker.conf"
    config.write_text(
        f"[imagebroker]\nenabled_schemes = file\n[backend:file]\nallowed_paths = {tmp_path}\n"
    )
    marker = f"marker{os.getpid()}kill"
    nap = f"sleep 1000.{os.getpid()}"  # no other process has these words
    path = path_with(tmp_path / marker, INFO + nap)
    words = [str(config), f"file://{tmp_path}/image.qcow2", str(folder / "disk")]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        while not running(nap.replace(" ", "\0")):
            assert_that(process.poll(), Is(None))
        process.send_signal(signal.SIGKILL)
        process.wait(HANGS)
    while running(marker):
        pass  # the kernel kills them; should it not, the test's time limit ends this
    assert_that((folder / "disk").read_bytes(), Equals(OLD))
    subprocess.run([sys.executable, "-c", PROGRAM, *words], check=True, capture_output=True)
    assert_that((folder / "disk").read_bytes() == DISK, Is(True))
    assert_that([path.name for path in folder.iterdir()], Equals(["disk"]))
