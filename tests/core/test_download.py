"""What a download promises, whatever the source does."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from testtools.assertions import assert_that
from testtools.matchers import (
    Contains,
    Equals,
    GreaterThan,
    Is,
    LessThan,
    MatchesAll,
    MatchesStructure,
    StartsWith,
)

from imagebroker.exceptions import (
    BackendError,
    Cancelled,
    ChecksumMismatch,
    ChecksumMissing,
    DestinationError,
    ImageBrokerError,
    ImageChanged,
    ImageNotFound,
    InvalidImageRef,
    PolicyViolation,
    RangeIgnored,
    SignatureError,
    TooLarge,
    TransferError,
    TransferTimeout,
    VerificationError,
)
from imagebroker.transfer.limits import Progress
from tests.conftest import Scripted

DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()
WRONG = "0" * 64


class Destination:
    """A destination path in a folder of its own, absent or with old content."""

    def __init__(self, folder: Path, existing: bool) -> None:
        folder.mkdir()
        self.folder, self.path = folder, folder / "dest.img"
        self.existing = existing
        if existing:
            self.path.write_bytes(b"what was there")
        self._inode = self.path.stat().st_ino if existing else None

    def assert_untouched(self) -> None:
        """State Z of the fault tables."""
        names = [entry.name for entry in self.folder.iterdir()]
        assert_that(names, Equals(["dest.img"] if self.existing else []))
        if self.existing:
            assert_that(self.path.read_bytes(), Equals(b"what was there"))
            assert_that(self.path.stat().st_ino, Equals(self._inode))

    def assert_complete(self, data: bytes = DATA) -> None:
        """State N of the fault tables."""
        assert_that(self.path.read_bytes(), Equals(data))
        assert_that([entry.name for entry in self.folder.iterdir()], Equals(["dest.img"]))


@pytest.fixture(params=["absent", "existing"])
def dest(request: pytest.FixtureRequest, tmp_path: Path) -> Destination:
    return Destination(tmp_path / "dest", request.param == "existing")


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """After any call: no thread and no descriptor more than before."""
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    yield
    # Fewer: something of an earlier test was collected in the meantime.
    assert_that(len(os.listdir("/proc/self/fd")), LessThan(files + 1))
    assert_that(threading.active_count(), LessThan(threads + 1))


class TestPath:
    def test_the_bytes_arrive_and_the_evidence_is_computed(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, script = scripted.image(DATA)
        done = scripted.broker.download(None, ref, dest.path)
        dest.assert_complete()
        assert_that(
            done,
            MatchesStructure.byEquality(
                path=dest.path, size=len(DATA), source=ref, attempts=1, resumed_from=None
            ),
        )
        assert_that(done.evidence["sha256"], Equals(SHA256))
        assert_that(script.closed, Equals(1))

    @pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 4095, 4096, 4097, 100_000])
    def test_every_size_arrives(self, scripted: Scripted, dest: Destination, size: int) -> None:
        data = (DATA * 10)[:size]
        ref, _ = scripted.image(data, checksums={"sha256": hashlib.sha256(data).hexdigest()})
        assert_that(scripted.broker.download(None, ref, dest.path).size, Equals(size))
        dest.assert_complete(data)

    def test_runs_of_zeros_become_holes_and_are_the_same_bytes(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        data = DATA + bytes(64 << 20) + DATA + bytes(1 << 20)
        ref, _ = scripted.image(data, chunk=1 << 20)
        scripted.broker.download(None, ref, dest.path)
        dest.assert_complete(data)
        assert_that(dest.path.stat().st_blocks * 512, LessThan(8 << 20))

    @pytest.mark.parametrize("chunk", [1, 7])
    def test_tiny_chunks_arrive(self, scripted: Scripted, dest: Destination, chunk: int) -> None:
        ref, _ = scripted.image(DATA, chunk=chunk)
        scripted.broker.download(None, ref, dest.path)
        dest.assert_complete()

    @pytest.mark.parametrize("how", ["caller", "pin", "record"])
    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    def test_a_right_checksum_is_named_in_the_evidence(
        self, scripted: Scripted, dest: Destination, how: str, algorithm: str
    ) -> None:
        digest = hashlib.new(algorithm, DATA).hexdigest()
        ref, _ = scripted.image(DATA, checksums={algorithm: digest} if how == "record" else {})
        done = scripted.broker.download(
            None,
            ref + (f"#{algorithm}={digest}" if how == "pin" else ""),
            dest.path,
            checksum=f"{algorithm}:{digest}" if how == "caller" else None,
        )
        assert_that(done.evidence[algorithm], Equals(digest))
        assert_that(len(done.evidence["checked_against"]), Equals(1))

    @pytest.mark.parametrize("how", ["caller", "pin", "record"])
    def test_dest_is_untouched_when_a_checksum_differs(
        self, scripted: Scripted, dest: Destination, how: str
    ) -> None:
        ref, script = scripted.image(DATA, checksums={"sha256": WRONG} if how == "record" else {})
        with pytest.raises(ChecksumMismatch) as caught:
            scripted.broker.download(
                None,
                ref + (f"#sha256={WRONG}" if how == "pin" else ""),
                dest.path,
                checksum=f"sha256:{WRONG}" if how == "caller" else None,
            )
        dest.assert_untouched()
        assert_that(script.opened, Equals(1))  # never retried
        assert_that(caught.value.retryable, Is(False))

    @pytest.mark.parametrize("where", [0, len(DATA) // 2, len(DATA) - 1])
    def test_one_flipped_bit_anywhere_is_found(
        self, scripted: Scripted, dest: Destination, where: int
    ) -> None:
        damaged = bytearray(DATA)
        damaged[where] ^= 1
        ref, _ = scripted.image(bytes(damaged))
        with pytest.raises(ChecksumMismatch):
            scripted.broker.download(None, ref, dest.path, checksum=f"sha256:{SHA256}")
        dest.assert_untouched()

    @pytest.mark.parametrize(
        "damaged",
        [
            DATA[1000:2000] + DATA[:1000] + DATA[2000:],
            DATA[:1000] + bytes(1000) + DATA[2000:],
            DATA[:1000] + DATA[:1000] + DATA[2000:],
            DATA[:-1],
            DATA + b"x",
        ],
    )
    def test_moved_missing_and_added_blocks_are_found(
        self, scripted: Scripted, dest: Destination, damaged: bytes
    ) -> None:
        ref, _ = scripted.image(damaged)
        with pytest.raises(VerificationError):
            scripted.broker.download(None, ref, dest.path, checksum=f"sha256:{SHA256}")
        dest.assert_untouched()

    @pytest.mark.parametrize(
        "checksum",
        ["sha256:" + "a" * 63, "sha256:" + "a" * 65, "sha256:" + "g" * 64, "sha256:../../x", "SHA256",
         "sha256: " + "a" * 64, "sha256:sha256:" + "a" * 64, "shake_128:" + "a" * 64, "sha512:" + "a" * 64,
         "SHA256:" + "a" * 64, "sha256:" + "a" * 64 + "\n", "", "crc32:12345678", 7],
    )  # fmt: skip
    def test_a_malformed_checksum_is_refused_before_any_io(
        self, scripted: Scripted, dest: Destination, checksum: Any
    ) -> None:
        ref, script = scripted.image(DATA)
        with pytest.raises(InvalidImageRef):
            scripted.broker.download(None, ref, dest.path, checksum=checksum)
        assert_that(script.opened, Equals(0))
        dest.assert_untouched()

    @pytest.mark.parametrize("name", ["md5", "sha1"])
    def test_a_weak_checksum_is_refused_unless_the_deployer_allows_it(
        self, scripted: Scripted, dest: Destination, name: str
    ) -> None:
        ref, _ = scripted.image(DATA)
        weak = f"{name}:{hashlib.new(name, DATA).hexdigest()}"
        with pytest.raises(PolicyViolation):
            scripted.broker.download(None, ref, dest.path, checksum=weak)
        dest.assert_untouched()
        broker = scripted.configured("allow_md5 = true")
        assert_that(broker.download(None, ref, dest.path, checksum=weak).size, Equals(len(DATA)))

    @pytest.mark.parametrize(
        ("checksums", "expected"),
        [
            ({}, ChecksumMissing),
            ({"md5": hashlib.md5(DATA).hexdigest()}, ChecksumMissing),
            ({"sha512": ""}, VerificationError),
            ({"sha512": SHA256}, VerificationError),
            ({"shake_128": SHA256}, VerificationError),
            ({"frobnicate": SHA256}, VerificationError),
        ],
    )
    def test_where_a_checksum_is_required_none_or_a_weak_one_ends_it_before_the_first_byte(
        self, scripted: Scripted, dest: Destination, checksums: Any, expected: type[Exception]
    ) -> None:
        ref, script = scripted.image(DATA, checksums=checksums)
        broker = scripted.configured(backend="require_checksum = true")
        with pytest.raises(expected):
            broker.download(None, ref, dest.path)
        assert_that(script.reads, Equals([]))
        dest.assert_untouched()

    def test_the_strong_checksum_of_a_record_wins_over_its_md5(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        right_md5 = hashlib.md5(DATA).hexdigest()
        ref, _ = scripted.image(DATA, checksums={"md5": right_md5, "sha512": "0" * 128})
        with pytest.raises(ChecksumMismatch):
            scripted.broker.download(None, ref, dest.path)
        dest.assert_untouched()

    @pytest.mark.parametrize(
        ("claimed", "expected"), [(len(DATA) + 10, TransferError), (len(DATA) - 10, TooLarge)]
    )
    def test_a_wrong_size_is_found(
        self, scripted: Scripted, dest: Destination, claimed: int, expected: type[Exception]
    ) -> None:
        ref, _ = scripted.image(DATA, size=claimed)
        with pytest.raises(expected):
            scripted.broker.download(None, ref, dest.path)
        dest.assert_untouched()

    def test_an_image_of_unknown_size_needs_a_checksum_or_permission(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, _ = scripted.image(DATA, size=None)
        with pytest.raises(PolicyViolation):
            scripted.broker.download(None, ref, dest.path)
        dest.assert_untouched()
        scripted.broker.download(None, ref, dest.path, checksum=f"sha256:{SHA256}")
        dest.assert_complete()
        scripted.broker.download(None, ref, dest.path, allow_unknown_size=True)

    def test_an_empty_image_needs_a_record_a_checksum_or_permission(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, _ = scripted.image(b"")
        with pytest.raises(TransferError):
            scripted.broker.download(None, ref, dest.path)
        dest.assert_untouched()
        scripted.broker.download(None, ref, dest.path, allow_empty=True)
        dest.assert_complete(b"")

    @pytest.mark.parametrize("size", [-1, None])
    def test_more_than_max_size_is_refused(
        self, scripted: Scripted, dest: Destination, size: int | None
    ) -> None:
        ref, script = scripted.image(DATA, size=size)
        with pytest.raises(TooLarge):
            scripted.broker.download(
                None, ref, dest.path, max_size=len(DATA) - 1, allow_unknown_size=True
            )
        assert_that(len(script.reads), Equals(0 if size == -1 else 1))
        dest.assert_untouched()

    def test_a_missing_image_leaves_nothing(self, scripted: Scripted, dest: Destination) -> None:
        with pytest.raises(ImageNotFound):
            scripted.broker.download(None, "scripted://host/missing", dest.path)
        dest.assert_untouched()

    @pytest.mark.parametrize(
        "error", [ValueError("odd"), KeyError("odd"), RecursionError(), OSError(5, "odd"),
                  StopIteration(), UnicodeError("odd")]
    )  # fmt: skip
    def test_a_foreign_exception_is_wrapped_names_the_plugin_and_keeps_its_cause(
        self, scripted: Scripted, dest: Destination, error: Exception
    ) -> None:
        ref, _ = scripted.image(DATA, breaks=[(1500, error)])
        with pytest.raises(ImageBrokerError) as caught:
            scripted.broker.download(None, ref, dest.path)
        assert_that(str(caught.value), Contains("imagebroker-scripted 1.0"))
        assert caught.value.__cause__ is not None
        dest.assert_untouched()

    def test_a_memory_error_passes(self, scripted: Scripted, dest: Destination) -> None:
        ref, _ = scripted.image(DATA, breaks=[(1500, MemoryError())])
        with pytest.raises(MemoryError):
            scripted.broker.download(None, ref, dest.path)
        dest.assert_untouched()

    def test_an_error_in_close_is_logged_and_does_not_hide_the_first_one(
        self, scripted: Scripted, dest: Destination, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> None:
            raise ValueError("close failed")

        ref, _ = scripted.image(DATA, breaks=[(1, VerificationError("first"))], on_close=fail)
        with pytest.raises(VerificationError, match="first"):
            scripted.broker.download(None, ref, dest.path)
        assert_that(caplog.text, Contains("close failed"))
        dest.assert_untouched()

    @pytest.mark.parametrize("by", ["stall", "deadline", "cancel"])
    def test_a_source_that_never_yields_again_ends_in_time(
        self, scripted: Scripted, dest: Destination, by: str
    ) -> None:
        gate = threading.Event()
        ref, _ = scripted.image(
            DATA,
            before_chunk=lambda offset: gate.wait(30) and None if offset >= 3000 else None,
            on_close=gate.set,
        )
        limits: dict[str, Any] = {
            "stall": {"stall_timeout": 0.2},
            "deadline": {"deadline": 0.2},
        }.get(by, {"cancel": CancelledAfter(3)})
        began = time.monotonic()
        with pytest.raises(Cancelled if by == "cancel" else TransferTimeout):
            scripted.broker.download(None, ref, dest.path, retries=0, **limits)
        assert_that(time.monotonic() - began, LessThan(5.0))
        dest.assert_untouched()

    def test_a_trickle_below_the_minimum_rate_ends_in_time(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        tick = threading.Event()
        ref, _ = scripted.image(
            DATA, chunk=1, before_chunk=lambda _: tick.wait(0.02) and None, on_close=tick.set
        )
        with pytest.raises(TransferTimeout, match="less than"):
            scripted.broker.download(
                None, ref, dest.path, retries=0, stall_timeout=0.3, min_rate=1000
            )
        dest.assert_untouched()

    def test_progress_is_told_in_the_callers_thread_and_may_end_the_call(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, _ = scripted.image(DATA)
        told: list[tuple[Progress, threading.Thread]] = []
        scripted.broker.download(
            None, ref, dest.path, progress=lambda p: told.append((p, threading.current_thread()))
        )
        assert_that({thread for _, thread in told}, Equals({threading.current_thread()}))
        assert_that(
            told[-1][0],
            MatchesStructure.byEquality(phase="done", done=len(DATA), total=len(DATA), retries=0),
        )

        def refuse(progress: Progress) -> None:
            raise LookupError("enough")

        with pytest.raises(LookupError):
            scripted.broker.download(None, ref, dest.path, progress=refuse)
        dest.assert_complete()

    def test_a_keyboard_interrupt_propagates_and_leaves_nothing(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, _ = scripted.image(DATA)

        def interrupt(progress: Progress) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            scripted.broker.download(None, ref, dest.path, progress=interrupt)
        dest.assert_untouched()


class CancelledAfter:
    """True from the n-th question on."""

    def __init__(self, questions: int) -> None:
        self._left = questions

    def is_set(self) -> bool:
        self._left -= 1
        return self._left < 0


class TestRetry:
    def test_only_the_missing_bytes_are_read_again_under_a_strong_version(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, script = scripted.image(DATA, version="v1", breaks=[(1500, None), (4321, None)])
        done = scripted.broker.download(None, ref, dest.path)
        dest.assert_complete()
        assert_that(script.reads, Equals([0, 1500, 4321]))
        assert_that(done.resumed_from, Equals(4321))
        assert_that(done.evidence["sha256"], Equals(SHA256))

    def test_without_a_version_a_required_digest_permits_resuming(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, script = scripted.image(DATA, breaks=[(1500, None)])
        scripted.broker.download(None, ref, dest.path, checksum=f"sha256:{SHA256}")
        dest.assert_complete()
        assert_that(script.reads, Equals([0, 1500]))

    @pytest.mark.parametrize("how", [{"seekable": False, "version": "v1"}, {"version": None}])
    def test_otherwise_the_transfer_begins_again(
        self, scripted: Scripted, dest: Destination, how: dict[str, Any]
    ) -> None:
        ref, script = scripted.image(DATA, breaks=[(1500, None)], **how)
        scripted.broker.download(None, ref, dest.path)
        dest.assert_complete()
        assert_that(script.reads, Equals([0, 0]))
        assert_that(script.opened, Equals(2))

    def test_a_peer_that_ignores_ranges_is_asked_from_the_beginning(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        breaks: list[Any] = [(1500, None), (0, RangeIgnored("200 to a range"))]
        ref, script = scripted.image(DATA, version="v1", breaks=breaks)
        scripted.broker.download(None, ref, dest.path)
        dest.assert_complete()
        assert_that(script.reads, Equals([0, 1500, 0]))

    def test_an_image_that_changes_between_attempts_is_never_spliced(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, script = scripted.image(DATA, version="v1", seekable=False, breaks=[(1500, None)])

        def change(offset: int) -> None:
            if offset:
                script.version = "v2"

        script.before_chunk = change
        with pytest.raises(ImageChanged):
            scripted.broker.download(None, ref, dest.path)
        dest.assert_untouched()

    def test_the_budget_is_used_up_by_attempts_without_progress(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, script = scripted.image(DATA, version="v1", breaks=[(1500, None)] * 100)
        with pytest.raises(TransferError, match="cut at byte 1500"):
            scripted.broker.download(None, ref, dest.path, retries=2)
        assert_that(len(script.reads), Equals(3))
        dest.assert_untouched()

    def test_progress_gives_the_budget_back(self, scripted: Scripted, dest: Destination) -> None:
        data = bytes(1 << 20)
        breaks: list[Any] = [(at << 17, None) for at in range(1, 8)]
        ref, _ = scripted.image(data, chunk=1 << 16, version="v1", breaks=breaks)
        scripted.broker.download(None, ref, dest.path, retries=1)
        dest.assert_complete(data)

    @pytest.mark.parametrize(
        "error", [PolicyViolation("no"), VerificationError("no"), ImageNotFound("no"),
                  BackendError("no", retryable=False), TransferError("no", retryable=False)]
    )  # fmt: skip
    def test_what_will_not_go_away_is_not_retried(
        self, scripted: Scripted, dest: Destination, error: Exception
    ) -> None:
        ref, script = scripted.image(DATA, version="v1", breaks=[(1500, error)])
        with pytest.raises(type(error)):
            scripted.broker.download(None, ref, dest.path)
        assert_that(script.reads, Equals([0]))
        dest.assert_untouched()

    def test_a_server_that_refuses_is_given_up_after_its_budget(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, script = scripted.image(DATA, open_error=TransferError("refused"))
        with pytest.raises(TransferError):
            scripted.broker.download(None, ref, dest.path)
        assert_that(script.opened, Equals(5))
        dest.assert_untouched()

    def test_retry_after_is_honoured_up_to_the_deadline(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, _ = scripted.image(DATA, open_error=BackendError("busy", retry_after=1e9))
        began = time.monotonic()
        with pytest.raises(TransferTimeout):
            scripted.broker.download(None, ref, dest.path, deadline=0.3)
        assert_that(time.monotonic() - began, MatchesAll(GreaterThan(0.25), LessThan(5.0)))
        dest.assert_untouched()

    def test_a_failed_attempts_digest_does_not_leak_into_the_next(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, script = scripted.image(DATA, seekable=False, breaks=[(1500, None)] * 3)
        done = scripted.broker.download(None, ref, dest.path, checksum=f"sha256:{SHA256}")
        assert_that(done.evidence["sha256"], Equals(SHA256))
        assert_that(len(script.reads), Equals(4))


class TestDestination:
    @pytest.fixture
    def ref(self, scripted: Scripted) -> str:
        return scripted.image(DATA)[0]

    def test_the_new_file_gets_the_mode_of_the_old_one_else_the_umasks(
        self, scripted: Scripted, ref: str, tmp_path: Path
    ) -> None:
        old = os.umask(0o027)
        try:
            scripted.broker.download(None, ref, tmp_path / "new")
        finally:
            os.umask(old)
        (tmp_path / "old").write_bytes(b"")
        (tmp_path / "old").chmod(0o604)
        scripted.broker.download(None, ref, tmp_path / "old")
        scripted.broker.download(None, ref, tmp_path / "set", file_mode=0o400)
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "old", "set")]
        assert_that(modes, Equals([0o640, 0o604, 0o400]))

    def test_the_part_file_is_private_hidden_and_named_as_documented(
        self, scripted: Scripted, tmp_path: Path
    ) -> None:
        seen: list[tuple[str, int]] = []

        def look(offset: int) -> None:
            seen.extend((p.name, stat.S_IMODE(p.stat().st_mode)) for p in tmp_path.glob(".dest*"))

        ref, _ = scripted.image(DATA, before_chunk=look)
        scripted.broker.download(None, ref, tmp_path / "dest")
        name, mode = seen[0]
        assert_that(mode, Equals(0o600))
        assert_that(name, StartsWith(".dest."))
        assert_that(name.endswith(".imagebroker-part"), Is(True))

    def test_a_symbolic_link_is_replaced_not_followed(
        self, scripted: Scripted, ref: str, tmp_path: Path
    ) -> None:
        (tmp_path / "target").write_bytes(b"target")
        (tmp_path / "link").symlink_to("target")
        scripted.broker.download(None, ref, tmp_path / "link")
        assert_that((tmp_path / "link").is_symlink(), Is(False))
        assert_that((tmp_path / "target").read_bytes(), Equals(b"target"))

    def test_other_links_to_the_old_file_keep_the_old_bytes(
        self, scripted: Scripted, ref: str, tmp_path: Path
    ) -> None:
        (tmp_path / "old").write_bytes(b"old")
        os.link(tmp_path / "old", tmp_path / "other")
        scripted.broker.download(None, ref, tmp_path / "old")
        assert_that((tmp_path / "other").read_bytes(), Equals(b"old"))
        assert_that((tmp_path / "old").read_bytes(), Equals(DATA))

    @pytest.mark.parametrize("kind", ["directory", "fifo", "socket", "device"])
    def test_what_is_no_file_is_refused(
        self, scripted: Scripted, ref: str, tmp_path: Path, kind: str
    ) -> None:
        import socket

        path = tmp_path / "dest"
        with socket.socket(socket.AF_UNIX) as sock:
            if kind == "directory":
                path.mkdir()
            elif kind == "fifo":
                os.mkfifo(path)
            elif kind == "socket":
                sock.bind(str(path))
            else:
                path = Path("/dev/null")
            with pytest.raises(DestinationError):
                scripted.broker.download(None, ref, path)
        assert_that(list(tmp_path.glob(".*")), Equals([]))

    def test_an_existing_file_is_kept_without_overwrite(
        self, scripted: Scripted, ref: str, tmp_path: Path
    ) -> None:
        scripted.broker.download(None, ref, tmp_path / "dest", overwrite=False)
        with pytest.raises(DestinationError) as caught:
            scripted.broker.download(None, ref, tmp_path / "dest", overwrite=False)
        assert_that(caught.value.errno, Equals(errno.EEXIST))

    def test_a_file_that_appears_meanwhile_is_kept_without_overwrite(
        self, scripted: Scripted, tmp_path: Path
    ) -> None:
        ref, _ = scripted.image(
            DATA, before_chunk=lambda offset: (tmp_path / "dest").write_bytes(b"mine") and None
        )
        with pytest.raises(DestinationError):
            scripted.broker.download(None, ref, tmp_path / "dest", overwrite=False)
        assert_that((tmp_path / "dest").read_bytes(), Equals(b"mine"))
        assert_that([p.name for p in tmp_path.iterdir() if "part" in p.name], Equals([]))

    @pytest.mark.parametrize("name", ["", ".", "..", "missing/x", "dest/", "a" * 256, "x\0y"])
    def test_a_path_that_names_no_file_is_refused(
        self, scripted: Scripted, ref: str, tmp_path: Path, name: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.chdir(tmp_path)
        before = set(os.listdir(tmp_path))
        with pytest.raises(DestinationError):
            scripted.broker.download(None, ref, name)
        assert_that(set(os.listdir(tmp_path)), Equals(before))

    @pytest.mark.parametrize(
        "name", [b"a" * 255, b"\xff\xfe", b"-rf", "ünï".encode(), b" ", b"a\nb"]
    )
    def test_every_name_that_the_system_takes_is_taken(
        self, scripted: Scripted, ref: str, tmp_path: Path, name: bytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.chdir(tmp_path)
        scripted.broker.download(None, ref, name)  # type: ignore[arg-type]
        assert_that((Path(os.fsdecode(name))).read_bytes(), Equals(DATA))

    def test_a_link_that_another_user_planted_in_a_shared_directory_is_refused(
        self, scripted: Scripted, ref: str, tmp_path: Path
    ) -> None:
        if os.geteuid() != 0:
            pytest.skip("needs root to act as another user")
        shared, target = tmp_path / "shared", tmp_path / "target"
        shared.mkdir()
        shared.chmod(0o1777)
        target.mkdir()
        (shared / "link").symlink_to(target)
        os.lchown(shared / "link", 12345, 12345)
        with pytest.raises(PolicyViolation):
            scripted.broker.download(None, ref, shared / "link" / "dest")
        os.lchown(shared / "link", 0, 0)
        scripted.broker.download(None, ref, shared / "link" / "dest")
        assert_that((target / "dest").read_bytes(), Equals(DATA))

    def test_a_size_limit_of_the_process_is_a_destination_error(
        self, scripted: Scripted, ref: str, dest: Destination
    ) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
        try:
            with pytest.raises(DestinationError) as caught:
                scripted.broker.download(None, ref, dest.path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert_that(caught.value.errno, Equals(errno.EFBIG))
        dest.assert_untouched()

    @pytest.mark.parametrize("step", ["pwrite", "fsync", "rename", "ftruncate", "fchmod", "open"])
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
    def test_an_error_of_the_file_system_leaves_dest_as_it_was(
        self, scripted: Scripted, ref: str, dest: Destination, step: str, code: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        real = getattr(os, step)

        def fail(*args: Any, **kwargs: Any) -> Any:
            if step == "open" and not args[1] & os.O_CREAT:
                return real(*args, **kwargs)
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, step, fail)
        with pytest.raises(DestinationError) as caught:
            scripted.broker.download(None, ref, dest.path)
        monkeypatch.undo()
        assert_that(caught.value.errno, Equals(code))
        assert_that(bool(caught.value.hint), Is(True))
        dest.assert_untouched()

    def test_if_only_the_directory_cannot_be_synced_the_image_is_there_and_the_error_says_so(
        self, scripted: Scripted, ref: str, dest: Destination, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, calls = os.fsync, []

        def fail_second(fd: int) -> None:
            calls.append(fd)
            if len(calls) == 2:
                raise OSError(errno.EIO, "Input/output error")
            real(fd)

        monkeypatch.setattr(os, "fsync", fail_second)
        with pytest.raises(DestinationError, match="complete"):
            scripted.broker.download(None, ref, dest.path)
        dest.assert_complete()

    def test_too_little_free_space_is_found_before_the_first_byte(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, script = scripted.image(DATA, size=1 << 50)
        with pytest.raises(DestinationError) as caught:
            scripted.broker.download(None, ref, dest.path, max_size=1 << 60)
        assert_that(caught.value.errno, Equals(errno.ENOSPC))
        assert_that(script.reads, Equals([]))
        dest.assert_untouched()

    def test_short_writes_are_completed(
        self, scripted: Scripted, ref: str, dest: Destination, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, bytes(data)[:7], at))
        scripted.broker.download(None, ref, dest.path)
        dest.assert_complete()

    def test_without_fsync_it_is_still_atomic(
        self, scripted: Scripted, ref: str, dest: Destination, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "fsync", lambda fd: pytest.fail("fsync is off"))
        scripted.configured("fsync = false").download(None, ref, dest.path)
        dest.assert_complete()

    def test_part_files_of_dead_processes_are_swept_and_live_ones_kept(
        self, scripted: Scripted, ref: str, dest: Destination
    ) -> None:
        dead = dest.folder / ".other.0123456789abcdef.imagebroker-part"
        live = dest.folder / ".third.0123456789abcdef.imagebroker-part"
        others = [dest.folder / name for name in ("x.part", ".imagebroker-part", ".hidden")]
        for path in (dead, live, *others):
            path.write_bytes(b"part")
        with open(live, "rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            scripted.broker.download(None, ref, dest.path)
        assert_that(dead.exists(), Is(False))
        for path in (live, *others):
            assert_that(path.exists(), Is(True))

    def test_eight_threads_on_one_dest_leave_one_complete_image(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        contents = [bytes([n]) * 50_000 for n in range(8)]
        refs = [scripted.image(data, f"/{n}")[0] for n, data in enumerate(contents)]
        errors: list[BaseException] = []

        def run(ref: str) -> None:
            try:
                for _ in range(5):
                    scripted.broker.download(None, ref, dest.path)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=run, args=(ref,)) for ref in refs + refs[:4]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert_that(errors, Equals([]))
        assert_that(contents, Contains(dest.path.read_bytes()))
        assert_that([p.name for p in dest.folder.iterdir()], Equals(["dest.img"]))


class TestFileObject:
    def test_a_buffer_receives_the_bytes_at_its_position(self, scripted: Scripted) -> None:
        ref, _ = scripted.image(DATA)
        target = io.BytesIO(b"12345")
        target.seek(3)
        done = scripted.broker.download(None, ref, target)
        assert_that(target.getvalue(), Equals(b"123" + DATA))
        assert_that(done, MatchesStructure.byEquality(path=None, size=len(DATA)))

    @pytest.mark.parametrize("start", [0, 3])
    def test_after_an_error_a_seekable_object_has_its_length_and_position_back(
        self, scripted: Scripted, start: int, tmp_path: Path
    ) -> None:
        ref, _ = scripted.image(DATA, version="v1", breaks=[(5000, None)] * 9)
        (tmp_path / "f").write_bytes(b"12345")
        with open(tmp_path / "f", "r+b") as target:
            target.seek(start)
            with pytest.raises(TransferError) as caught:
                scripted.broker.download(None, ref, target)
            assert_that(target.tell(), Equals(start))
        assert_that((tmp_path / "f").stat().st_size, Equals(5))
        assert_that(caught.value.bytes_written, MatchesAll(GreaterThan(3000), LessThan(5001)))
        assert_that(caught.value.__notes__[0], Contains(f"{5 - start} old bytes are overwritten"))

    def test_an_object_in_append_mode_is_cut_back_to_its_length(
        self, scripted: Scripted, tmp_path: Path
    ) -> None:
        ref, _ = scripted.image(DATA, breaks=[(5000, VerificationError("no"))])
        (tmp_path / "f").write_bytes(b"12345")
        with open(tmp_path / "f", "ab") as target, pytest.raises(VerificationError):
            scripted.broker.download(None, ref, target)
        assert_that((tmp_path / "f").read_bytes(), Equals(b"12345"))

    def test_a_pipe_receives_each_byte_once_though_the_transfer_begins_again(
        self, scripted: Scripted
    ) -> None:
        ref, script = scripted.image(DATA, seekable=False, breaks=[(1500, None), (777, None)])
        read_end, write_end = os.pipe()
        received: list[bytes] = []
        with open(read_end, "rb") as pipe:
            drain = threading.Thread(target=lambda: received.append(pipe.read()))
            drain.start()
            with open(write_end, "wb", buffering=0) as target:
                scripted.broker.download(None, ref, target)
            drain.join()
        assert_that(received, Equals([DATA]))
        assert_that(script.reads, Equals([0, 0, 0]))

    def test_a_repetition_with_other_bytes_is_found(self, scripted: Scripted) -> None:
        ref, script = scripted.image(DATA, seekable=False, breaks=[(5000, None)])

        def change(offset: int) -> None:
            if len(script.reads) == 2:
                script.data = b"x" * len(DATA)

        script.before_chunk = change
        with pytest.raises(ImageChanged):
            scripted.broker.download(None, ref, io.BytesIO())

    @pytest.mark.parametrize("kind", ["closed", "text", "read only", "no write", "broken pipe",
                                      "raises", "returns nonsense"])  # fmt: skip
    def test_an_object_that_cannot_be_written_is_a_destination_error(
        self, scripted: Scripted, tmp_path: Path, kind: str
    ) -> None:
        ref, _ = scripted.image(DATA)
        (tmp_path / "f").write_bytes(b"")
        target: Any = io.BytesIO()
        if kind == "closed":
            target.close()
        elif kind == "text":
            target = io.StringIO()
        elif kind == "read only":
            target = open(tmp_path / "f", "rb")  # noqa: SIM115
        elif kind == "no write":
            target = object()
        elif kind == "broken pipe":
            read_end, write_end = os.pipe()
            os.close(read_end)
            target = open(write_end, "wb", buffering=0)  # noqa: SIM115
        else:
            target = Odd(ValueError("odd") if kind == "raises" else "nonsense")
        with pytest.raises(DestinationError):
            scripted.broker.download(None, ref, target)
        if kind in ("read only", "broken pipe"):
            target.close()

    def test_short_and_refused_writes_are_completed(self, scripted: Scripted) -> None:
        ref, _ = scripted.image(DATA)
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        received: list[bytes] = []
        with open(read_end, "rb") as pipe:
            drain = threading.Thread(target=lambda: received.append(pipe.read()))
            with open(write_end, "wb", buffering=0) as target:
                os.write(write_end, b"x" * 65536)  # full before it begins
                drain.start()
                scripted.broker.download(None, ref, target)
            drain.join()
        assert_that(received[0][65536:], Equals(DATA))


class Odd:
    """An object whose write() does what files do not."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def write(self, data: Any) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


class TestReader:
    def test_it_is_a_readable_object_that_knows_its_size(self, scripted: Scripted) -> None:
        ref, _ = scripted.image(DATA, chunk=777)
        with scripted.broker.open(None, ref) as reader:
            assert_that(reader.size, Equals(len(DATA)))
            first = reader.read(10)
            buffer = bytearray(20)
            filled = reader.readinto(buffer)
            rest = reader.read()
        assert_that(first + bytes(buffer[:filled]) + rest, Equals(DATA))
        assert_that(reader.evidence["sha256"], Equals(SHA256))

    def test_iterating_yields_bytes(self, scripted: Scripted) -> None:
        ref, _ = scripted.image(DATA, chunk=777)
        with scripted.broker.open(None, ref) as reader:
            chunks = list(reader)
        assert_that({type(chunk) for chunk in chunks}, Equals({bytes}))
        assert_that(b"".join(chunks), Equals(DATA))

    def test_the_last_byte_is_held_back_until_every_check_has_passed(
        self, scripted: Scripted
    ) -> None:
        ref, _ = scripted.image(DATA)
        received = b""
        with scripted.broker.open(None, ref, checksum=f"sha256:{WRONG}") as reader:
            with pytest.raises(ChecksumMismatch):
                for chunk in reader:
                    received += chunk
            for _ in range(2):
                with pytest.raises(ChecksumMismatch):
                    next(reader)  # never an end after an error
        assert_that(len(received), LessThan(len(DATA)))

    def test_closing_early_is_not_an_error_and_frees_everything(self, scripted: Scripted) -> None:
        ref, script = scripted.image(bytes(50 << 20), chunk=1 << 20)
        reader = scripted.broker.open(None, ref)
        reader.read(100)
        reader.close()
        reader.close()
        with pytest.raises(ValueError, match="closed"):
            reader.read(1)
        assert_that(script.closed, Equals(1))

    def test_a_reader_that_is_forgotten_is_closed(self, scripted: Scripted) -> None:
        import gc

        ref, script = scripted.image(bytes(50 << 20), chunk=1 << 20)
        reader = scripted.broker.open(None, ref)
        next(reader)
        del reader
        gc.collect()
        assert_that(script.closed, Equals(1))

    def test_it_resumes_like_a_download(self, scripted: Scripted) -> None:
        ref, script = scripted.image(DATA, version="v1", breaks=[(1500, None)])
        with scripted.broker.open(None, ref) as reader:
            assert_that(reader.read(), Equals(DATA))
        assert_that(script.reads, Equals([0, 1500]))

    def test_a_slow_consumer_is_no_stall(self, scripted: Scripted) -> None:
        ref, _ = scripted.image(bytes(20 << 20), chunk=1 << 20)
        with scripted.broker.open(None, ref, stall_timeout=0.1) as reader:
            next(reader)
            time.sleep(0.3)  # the subject of the test: time in which nobody reads
            assert_that(len(reader.read()), Equals(19 << 20))

    def test_a_missing_image_is_found_by_open(self, scripted: Scripted) -> None:
        with pytest.raises(ImageNotFound):
            scripted.broker.open(None, "scripted://host/missing")


class TestLocalFile:
    """A source that offers a file of this host: the core copies it itself."""

    @pytest.fixture
    def publish(self, scripted: Scripted, tmp_path: Path) -> Callable[..., tuple[str, Path]]:
        def publish(data: bytes, **how: Any) -> tuple[str, Path]:
            path = tmp_path / "source.img"
            path.write_bytes(data)
            return scripted.image(data, local_path=path, **how)[0], path

        return publish

    def test_it_is_copied_without_a_read_of_the_plugin(
        self, scripted: Scripted, publish: Any, dest: Destination
    ) -> None:
        ref, path = publish(DATA)
        scripted.broker.download(None, ref, dest.path)
        dest.assert_complete()
        assert_that(dest.path.stat().st_nlink, Equals(1))
        dest.path.write_bytes(b"changed")
        assert_that(path.read_bytes(), Equals(DATA))

    def test_a_checksum_is_computed_over_what_was_stored(
        self, scripted: Scripted, publish: Any, dest: Destination
    ) -> None:
        ref, _ = publish(DATA + bytes(100_000))
        right = hashlib.sha256(DATA + bytes(100_000)).hexdigest()
        done = scripted.broker.download(None, ref, dest.path, checksum=f"sha256:{right}")
        assert_that(done.evidence["sha256"], Equals(right))
        with pytest.raises(ChecksumMismatch):
            scripted.broker.download(None, ref, dest.path, checksum=f"sha256:{WRONG}")
        dest.assert_complete(DATA + bytes(100_000))

    def test_holes_are_kept(self, scripted: Scripted, publish: Any, dest: Destination) -> None:
        ref, path = publish(b"", size=None)
        with open(path, "r+b") as file:
            file.truncate(1 << 40)
            file.seek(1 << 39)
            file.write(DATA)
        scripted.broker.download(None, ref, dest.path, allow_unknown_size=True)
        found = dest.path.stat()
        assert_that(found.st_size, Equals(1 << 40))
        assert_that(found.st_blocks * 512, LessThan(1 << 20))
        with open(dest.path, "rb") as file:
            file.seek(1 << 39)
            assert_that(file.read(len(DATA)), Equals(DATA))

    def test_it_is_read_in_order_by_readers_and_file_objects(
        self, scripted: Scripted, publish: Any
    ) -> None:
        ref, _ = publish(DATA)
        target = io.BytesIO()
        scripted.broker.download(None, ref, target, checksum=f"sha256:{SHA256}")
        assert_that(target.getvalue(), Equals(DATA))

    @pytest.mark.parametrize("step", ["lseek", "fstat"])
    def test_a_file_that_cannot_be_looked_at_is_a_transfer_error_and_is_closed(
        self, scripted: Scripted, publish: Any, dest: Destination, step: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        ref, path = publish(DATA)
        real = getattr(os, step)

        def fail(fd: int, *args: Any) -> Any:
            source = os.readlink(f"/proc/self/fd/{fd}") == str(path)
            if source and (step == "fstat" or args[1] == os.SEEK_HOLE):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(fd, *args)

        before = len(os.listdir("/proc/self/fd"))
        monkeypatch.setattr(os, step, fail)
        with pytest.raises(TransferError, match="cannot be read"):
            scripted.broker.download(None, ref, dest.path)
        monkeypatch.undo()
        assert_that(len(os.listdir("/proc/self/fd")), Equals(before))
        dest.assert_untouched()

    def test_a_file_that_changed_before_or_while_it_is_copied_is_found(
        self, scripted: Scripted, publish: Any, dest: Destination, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ref, path = publish(DATA)
        real = os.copy_file_range

        def touch(*args: Any) -> int:
            os.utime(path, ns=(1, 1))
            return real(*args)

        monkeypatch.setattr(os, "copy_file_range", touch)
        with pytest.raises(ImageChanged):
            scripted.broker.download(None, ref, dest.path)
        path.write_bytes(DATA[:-1])
        with pytest.raises(ImageChanged):
            scripted.broker.download(None, ref, dest.path)
        dest.assert_untouched()


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    data=st.binary(min_size=1, max_size=5000),
    chunk=st.integers(1, 3000),
    cuts=st.lists(st.integers(0, 5000), max_size=4),
    seekable=st.booleans(),
    version=st.sampled_from([None, "v1"]),
)
def test_whatever_is_cut_wherever_the_bytes_are_right(
    scripted: Scripted, data: bytes, chunk: int, cuts: list[int], seekable: bool,
    version: str | None,
) -> None:  # fmt: skip
    data = b"\xff" + data  # no format begins like this: hypothesis knows their magic numbers
    breaks = [(min(cut, len(data) - 1), None) for cut in cuts]
    ref, script = scripted.image(
        data, chunk=chunk, seekable=seekable, version=version, breaks=breaks
    )
    target = io.BytesIO()
    scripted.broker.download(None, ref, target)
    assert_that(target.getvalue(), Equals(data))
    script.breaks = [(min(cut, len(data) - 1), None) for cut in cuts]
    with scripted.broker.open(None, ref) as reader:
        assert_that(reader.read(), Equals(data))


KILLED = """
import os, signal, sys
sys.path[:0] = {path!r}
import imagebroker
from tests.scripted import IMAGES, Script

def maybe_die(offset):
    if offset >= {at}:
        os.kill(os.getpid(), signal.SIGKILL)

IMAGES["/image"] = Script(bytes(range(256)) * 40, before_chunk=maybe_die)
broker = imagebroker.Broker.from_config({config!r})
broker.download(None, "scripted://host/image", {dest!r})
"""


@pytest.mark.parametrize("at", [0, 5000, 10_000])
def test_after_kill_9_dest_is_as_it_was_and_the_next_call_sweeps(
    at: int, scripted: Scripted, dest: Destination, on_path: Path, tmp_path: Path
) -> None:
    config = tmp_path / "killed.conf"
    config.write_text("[imagebroker]\nenabled_schemes = scripted\n")
    program = KILLED.format(
        path=[str(on_path), os.getcwd()], at=at, config=str(config), dest=str(dest.path)
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert_that(ended.returncode, Equals(-signal.SIGKILL))
    if dest.existing:
        assert_that(dest.path.read_bytes(), Equals(b"what was there"))
    else:
        assert_that(dest.path.exists(), Is(False))
    assert_that(len([p for p in dest.folder.iterdir() if "part" in p.name]), Equals(1))
    ref, _ = scripted.image(DATA)
    scripted.broker.download(None, ref, dest.path)
    dest.assert_complete()


class TestKeptPart:
    """A later call goes on with what a broken one left, where something proves that it may."""

    BIG = bytes(range(256)) * 4096

    def parts(self, dest: Destination) -> list[str]:
        return sorted(p.name for p in dest.folder.iterdir() if "imagebroker" in p.name)

    def broken(self, scripted: Scripted, dest: Destination, **how: Any) -> tuple[str, Any]:
        """A download that was cut at byte 500,000 and gave up."""
        checksum = how.pop("checksum", None)
        ref, script = scripted.image(self.BIG, chunk=1 << 16, breaks=[(500_000, None)], **how)
        with pytest.raises(TransferError):
            scripted.broker.download(
                None, ref, dest.path, retries=0, keep_partial=True, checksum=checksum
            )
        return ref, script

    def test_only_the_missing_bytes_are_read(self, scripted: Scripted, dest: Destination) -> None:
        ref, script = self.broken(scripted, dest, version="v1")
        assert_that(len(self.parts(dest)), Equals(2))
        script.reads.clear()
        done = scripted.broker.download(None, ref, dest.path)
        assert_that(script.reads, Equals([500_000]))
        assert_that(done.resumed_from, Equals(500_000))
        assert_that(done.evidence["sha256"], Equals(hashlib.sha256(self.BIG).hexdigest()))
        dest.assert_complete(self.BIG)

    def test_a_required_digest_proves_it_too(self, scripted: Scripted, dest: Destination) -> None:
        checksum = f"sha256:{hashlib.sha256(self.BIG).hexdigest()}"
        ref, script = self.broken(scripted, dest, checksum=checksum)
        script.reads.clear()
        scripted.broker.download(None, ref, dest.path, checksum=checksum)
        assert_that(script.reads, Equals([500_000]))
        dest.assert_complete(self.BIG)

    def test_it_stays_where_nobody_could_go_on_with_it(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, script = self.broken(scripted, dest, version="v1")
        script.open_error = TransferError("no route")
        for error in (script.open_error, BackendError("in trouble"), KeyboardInterrupt()):
            script.open_error = error  # type: ignore[assignment]
            with pytest.raises(type(error)):
                scripted.broker.download(None, ref, dest.path, retries=0, keep_partial=True)
            assert_that(len(self.parts(dest)), Equals(2))
        script.open_error = None
        done = scripted.broker.download(None, ref, dest.path)
        assert_that(done.resumed_from, Equals(500_000))
        dest.assert_complete(self.BIG)

    @pytest.mark.parametrize("why", ["nothing proves the rest", "a failed check", "a refusal",
                                     "not asked for", "no bytes"])  # fmt: skip
    def test_otherwise_nothing_stays(self, scripted: Scripted, dest: Destination, why: str) -> None:
        errors: dict[str, Any] = {
            "a failed check": VerificationError("no"),
            "a refusal": PolicyViolation("no"),
        }
        version = None if why == "nothing proves the rest" else "v1"
        cut = 0 if why == "no bytes" else 500_000
        breaks = [(cut, errors.get(why))]
        ref, _ = scripted.image(self.BIG, chunk=1 << 16, version=version, breaks=breaks)
        with pytest.raises(ImageBrokerError):
            scripted.broker.download(
                None, ref, dest.path, retries=0, keep_partial=why != "not asked for"
            )
        dest.assert_untouched()

    @pytest.mark.parametrize("change", ["version", "size", "damage", "other ref", "torn journal"])
    def test_what_does_not_belong_to_it_is_not_used(
        self, scripted: Scripted, dest: Destination, change: str
    ) -> None:
        ref, script = self.broken(scripted, dest, version="v1")
        script.reads.clear()
        journal, part = (dest.folder / name for name in self.parts(dest))
        if change == "version":
            script.version = "v2"
        elif change == "size":
            script.data += b"more"
        elif change == "damage":
            with open(part, "r+b") as file:
                file.seek(1000)
                file.write(b"damage")
        elif change == "torn journal":
            journal.write_bytes(journal.read_bytes()[:50])
        else:
            ref, script = scripted.image(self.BIG, "/other", chunk=1 << 16, version="v1")
        scripted.broker.download(None, ref, dest.path)
        assert_that(script.reads, Equals([0]))
        assert_that(dest.path.read_bytes(), Equals(script.data))
        left = self.parts(dest)
        assert_that(len(left), Equals(2 if change == "other ref" else 0))  # that may go on too

    def test_a_source_that_cannot_begin_in_the_middle_begins_again(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, script = self.broken(scripted, dest, version="v1")
        script.seekable = False
        script.reads.clear()
        scripted.broker.download(None, ref, dest.path)
        assert_that(script.reads, Equals([0]))
        dest.assert_complete(self.BIG)

    def test_an_interrupted_download_may_be_taken_up(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, script = scripted.image(self.BIG, chunk=1 << 16, version="v1")

        def interrupt(progress: Progress) -> None:
            if progress.done > 100_000:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            script.before_chunk = lambda offset: time.sleep(0.02)
            scripted.broker.download(None, ref, dest.path, keep_partial=True, progress=interrupt)
        script.reads.clear()
        done = scripted.broker.download(None, ref, dest.path)
        assert_that(done.resumed_from, Equals(script.reads[0]))
        assert_that(script.reads[0], GreaterThan(100_000))
        dest.assert_complete(self.BIG)

    def test_an_old_one_is_swept_with_its_journal(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        self.broken(scripted, dest, version="v1")
        for name in self.parts(dest):
            os.utime(dest.folder / name, (1, 1))
        other, _ = scripted.image(DATA, "/other")
        scripted.broker.download(None, other, dest.path)
        assert_that(self.parts(dest), Equals([]))

    def test_one_that_another_process_works_on_is_left_to_it(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, script = self.broken(scripted, dest, version="v1")
        part = dest.folder / self.parts(dest)[1]
        script.reads.clear()
        with open(part, "rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            scripted.broker.download(None, ref, dest.path)
        assert_that(script.reads, Equals([0]))
        assert_that(part.exists(), Is(True))


def test_a_signature_check_that_is_asked_for_is_never_skipped_in_silence(
    scripted: Scripted, dest: Destination
) -> None:
    ref, _ = scripted.image(DATA)
    with pytest.raises(SignatureError):
        scripted.broker.download(None, ref, dest.path, trusted_certs=["a"])
    with pytest.raises(SignatureError):
        scripted.broker.open(None, ref, trusted_certs=["a"])
    with pytest.raises(SignatureError):
        scripted.broker.download(None, ref, dest.path, trusted_certs=[])
    dest.assert_untouched()


def test_one_flipped_bit_in_every_byte_of_a_small_image_is_found(scripted: Scripted) -> None:
    data = random.Random(3).randbytes(4096)
    checksum = f"sha256:{hashlib.sha256(data).hexdigest()}"
    ref, script = scripted.image(data, chunk=4096)
    found = 0
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        script.data = bytes(damaged)
        try:
            scripted.broker.download(None, ref, io.BytesIO(), checksum=checksum)
        except ChecksumMismatch:
            found += 1
    assert_that(found, Equals(len(data)))


def test_one_huge_chunk_arrives(scripted: Scripted, dest: Destination) -> None:
    data = DATA * 30_000  # some 300 MB in one piece
    ref, _ = scripted.image(data, chunk=len(data))
    done = scripted.broker.download(None, ref, dest.path)
    assert_that(done.size, Equals(len(data)))
    assert_that(done.evidence["sha256"], Equals(hashlib.sha256(data).hexdigest()))
