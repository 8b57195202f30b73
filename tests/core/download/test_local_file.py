"""An image that is a file of this host is copied by the core."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, LessThan

from imagebroker.exceptions import ChecksumMismatch, ImageChanged, TransferError
from tests.conftest import Scripted
from tests.core.download.destination import DATA, SHA256, WRONG, Destination


class TestLocalFile:
    """A source that offers a file of this host: the core copies it itself."""

    @pytest.fixture
    def publish(self, scripted: Scripted, tmp_path: Path) -> Callable[..., tuple[str, Path]]:
        def publish(data: bytes, **how: Any) -> tuple[str, Path]:
            path = tmp_path / "source.img"
            path.write_bytes(data)
            return scripted.image(data, local_path=path, **how)[0], path

        return publish

    @pytest.mark.promise("C12")
    def test_it_is_copied_without_a_read_of_the_plugin(
        self, scripted: Scripted, publish: Any, dest: Destination
    ) -> None:
        ref, path = publish(DATA)
        scripted.broker.download(None, ref, dest.path)
        dest.assert_complete()
        assert_that(dest.path.stat().st_nlink, Equals(1))
        dest.path.write_bytes(b"changed")
        assert_that(path.read_bytes(), Equals(DATA))

    @pytest.mark.promise("verified-whole")
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

    @pytest.mark.promise("C12", "security-28")
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
