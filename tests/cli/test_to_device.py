"""`download --to-device`."""

from __future__ import annotations

from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, StartsWith

from tests.cli.conftest import Inside
from tests.servers.mounts import loop_device

DATA = bytes(range(256)) * 8192  # 2 MiB


def test_a_device_is_written_to_only_if_that_is_said(imagebroker: Inside) -> None:
    (imagebroker.work / "disk.raw").write_bytes(DATA)
    (imagebroker.work / "file").write_bytes(b"\xa5" * (2 * len(DATA)))
    ref = imagebroker("create", "--file", "disk.raw", "-f", "json").record["ref"]
    with loop_device(imagebroker.work / "file") as device:
        refused = imagebroker("download", ref, str(device))
        assert_that(refused.status, Equals(9))
        assert_that(refused.stderr, Contains("--to-device"))
        done = imagebroker("download", ref, str(device), "--to-device")
        assert_that(done.stderr, StartsWith(f"imagebroker: stored {device}: 2.0 MiB"))
        assert_that(done.status, Equals(0))
        assert_that(device.read_bytes() == DATA + b"\xa5" * len(DATA), Is(True))


def test_a_file_is_no_device(imagebroker: Inside) -> None:
    (imagebroker.work / "disk.raw").write_bytes(DATA)
    (imagebroker.work / "file").write_bytes(b"old")
    ref = imagebroker("create", "--file", "disk.raw", "-f", "json").record["ref"]
    refused = imagebroker("download", ref, "file", "--to-device")
    assert_that(refused.status, Equals(9))
    assert_that(refused.stderr, Contains("omit --to-device"))
    assert_that((imagebroker.work / "file").read_bytes(), Equals(b"old"))


def test_what_only_a_file_has_is_refused(imagebroker: Inside) -> None:
    (imagebroker.work / "disk.raw").write_bytes(DATA)
    ref = imagebroker("create", "--file", "disk.raw", "-f", "json").record["ref"]
    for argv, said in (
        (("-",), "needs the name of a device"),
        ((), "needs the name of a device"),
        (("/dev/none", "--no-overwrite"), "omit --no-overwrite"),
        (("/dev/none", "--file-mode", "0600"), "omit --file-mode"),
    ):
        refused = imagebroker("download", ref, *argv, "--to-device")
        assert_that((refused.status, refused.stdout), Equals((9, b"")))
        assert_that(refused.stderr, Contains(said))
