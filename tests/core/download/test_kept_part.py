"""A later call goes on with the part file that a broken one left."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan, Is

from imagebroker.exceptions import (
    BackendError,
    ImageBrokerError,
    PolicyViolation,
    TransferError,
    VerificationError,
)
from imagebroker.transfer.limits import Progress
from tests.conftest import Scripted
from tests.core.download.destination import DATA, Destination


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

    @pytest.mark.promise("kept-part")
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

    @pytest.mark.promise("kept-part", "security-30")
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

    @pytest.mark.promise("kept-part")
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

    @pytest.mark.promise("kept-part")
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
