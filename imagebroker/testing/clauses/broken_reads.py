"""Clauses C13 to C16, and C36, with faults: connections break, servers lie, images change."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any

from imagebroker.backends.backend import ImageSource
from imagebroker.exceptions import (
    ImageBrokerError,
    ImageChanged,
    RangeIgnored,
    VerificationError,
)
from imagebroker.testing.clauses.fault_injection import ALLOWED, FaultInjection
from imagebroker.testing.faults.tcp_proxy import Fault
from imagebroker.testing.harness.background import BackgroundCall, ReadResult
from imagebroker.testing.hooks import MIB, random_bytes

_SIZE = 600_000
_HALF = _SIZE // 2


class BrokenReadClauses(FaultInjection):
    """C13 to C16, and C36."""

    def check_taken(self, taken: ReadResult, data: bytes, when: str, start: int = 0) -> None:
        """A read that broke: a beginning of the right bytes, and an error."""
        part = bytes(taken.data)
        self.assert_same(part, data[start : start + len(part)], f"{when}: what came before")
        if taken.error is None and len(part) != len(data) - start:
            self.fail(f"{when}: read ended after {len(part)} of {len(data) - start} bytes "
                      "without an error")  # fmt: skip

    def test_c13_a_cut_is_an_error_and_never_an_end(self) -> None:
        """Half an image would be reported as a whole one."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        for size in (1, _HALF, _SIZE - 1):
            for reset in (False, True):
                backend = self.backend_that_breaks(ref, data, Fault(cut_after=size, reset=reset))
                when = f"cut by {'RST' if reset else 'FIN'} after {size} of {_SIZE} bytes"
                self.check_taken(self.try_read(ref, backend)[1], data, when)

    def test_c14_what_has_arrived_is_yielded(self) -> None:
        """A slow server would be taken for a dead one, and its bytes thrown away."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        source = self.open(ref, self.backend_that_breaks(ref, data, Fault(stall_after=_HALF)))
        taken = ReadResult()
        running = BackgroundCall(lambda: taken.take(source, 0, None, None))
        came = taken.begun.wait(self.stall_timeout + 1)
        self._close_quietly(source)
        running.ended(2.0)
        if not came:
            self.fail(f"{_HALF} bytes have arrived, and none was yielded")

    def test_c15_it_does_not_try_again_by_itself(self) -> None:
        """The limits of the deployer on retries and time would not hold."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        backend = self.backend_that_breaks(ref, data, Fault(cut_after=_HALF))
        before = self.tap.connections
        source, taken = self.try_read(ref, backend)
        if source is not None and taken.error is None and len(taken.data) == _SIZE:
            more = self.tap.connections - before
            self.fail(f"a read that was cut in the middle brought all bytes over {more} "
                      "connections (or the hook cut_after has no effect)")  # fmt: skip

    def test_c15_after_an_error_it_goes_on(self) -> None:
        """A broken download would begin again at byte 0, or never succeed."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        source, taken = self.try_read(
            ref, self.backend_that_breaks(ref, data, Fault(cut_after=_HALF))
        )
        if taken.error is not None and not _worth_a_retry(taken.error):
            self.fail(f"a cut connection is not retryable: {taken.how}")
        if source is not None and source.seekable:
            start = len(taken.data)
            self.assert_same(
                self.read_from(source, start), data[start:], f"read({start}) after an error"
            )
        with self.opened(ref) as again:
            self.assert_same(self.bytes_of(again), data, "opened again after an error")

    def test_c15_through_a_broker_a_cut_is_made_good(self) -> None:
        """Users would have to start a download again by hand."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        checksum = f"sha256:{hashlib.sha256(data).hexdigest()}"
        with tempfile.TemporaryDirectory() as folder:
            for dest in (Path(folder, "image"), io.BytesIO()):
                self.backend_that_breaks(ref, data, Fault(cut_after=_HALF))
                self._brokers.clear()
                self.broker(ref).download(self.context, ref, dest, checksum=checksum)
                found = dest.getvalue() if isinstance(dest, io.BytesIO) else dest.read_bytes()
                self.assert_same(found, data, "a download that was cut once")
            self.assertEqual(["image"], os.listdir(folder))

    def test_c16_a_replaced_image_is_never_spliced(self) -> None:
        """The beginning of one image and the end of another would be one file."""
        old, new = random_bytes(4 * MIB, seed=1), random_bytes(4 * MIB, seed=2)
        ref = self.publish(old)
        source = self.open(ref)
        reading: Any = iter(source.read())
        first = self.in_time("the first chunk", lambda: bytes(next(reading)))
        self.replace(ref, new)
        rest = ReadResult()
        self.in_time("the rest", lambda: _exhaust(reading, rest))
        self.check_taken_one_of(first + bytes(rest.data), rest.error, old, new)
        if source.image.version is None or not source.seekable:
            return
        start = 2 * MIB
        taken = self.take(source, start)
        self.check_error(taken.error, f"read({start}) of an image that was replaced")
        if bytes(taken.data) != old[start : start + len(taken.data)]:
            self.fail(f"read({start}) yields the bytes of another version, without ImageChanged")
        if taken.error is None and len(taken.data) != len(old) - start:
            self.fail(f"read({start}) of an image that was replaced ends early")

    def check_taken_one_of(
        self, found: bytes, error: BaseException | None, old: bytes, new: bytes
    ) -> None:
        """All of one version, or the beginning of one and an error."""
        for data in (old, new):
            if found == data or (error is not None and data.startswith(found)):
                return
        if old.startswith(found) or new.startswith(found):
            self.fail(f"read ended after {len(found)} of {len(old)} bytes without an error")
        self.fail("the bytes of two versions were joined")

    def test_c16_through_a_broker_a_replaced_image_is_never_spliced(self) -> None:
        """A download that was cut would go on in another image."""
        old, new = random_bytes(9 * MIB, seed=1), random_bytes(9 * MIB, seed=2)
        self.needs("replace")
        ref = self.publish(old)
        # Further away than the core reads ahead: the cut comes after the change.
        self.backend_that_breaks(ref, old, Fault(cut_after=7 * MIB))
        self._brokers.clear()
        found = bytearray()
        error: Exception | None = None
        try:
            with self.broker(ref).open(self.context, ref) as reader:
                found += next(reader)
                self.replace(ref, new)
                for chunk in reader:
                    found += chunk
        except Exception as caught:
            error = caught
        self.check_taken_one_of(bytes(found), error, old, new)

    def test_c36_without_its_version_a_source_reads_what_is_there(self) -> None:
        """Each cut would end a download from servers with versions of their own."""
        old, new = random_bytes(4 * MIB, seed=1), random_bytes(4 * MIB, seed=2)
        self.needs("replace")
        ref = self.publish(old)
        source = self.open(ref)
        if type(source).ignore_version is ImageSource.ignore_version:
            self.skipTest("its version is that of the image, not of one server")
        self.in_time("the first chunk", lambda: bytes(next(iter(source.read()))))
        self.replace(ref, new)
        source.ignore_version()
        start = 2 * MIB
        taken = self.take(source, start)
        if isinstance(taken.error, RangeIgnored):
            return  # what is not there is another question
        if taken.error is not None or bytes(taken.data) not in (old[start:], new[start:]):
            self.fail(f"read({start}) after ignore_version(), of an image that was replaced: "
                      f"{taken.how}")  # fmt: skip

    def test_c16_a_range_that_is_ignored_or_wrong_is_noticed(self) -> None:
        """Bytes would be stored in the wrong place."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        for lie in ({"ignore_ranges": True}, {"shift_ranges": 7}, {"shift_ranges": -7}):
            backend, wires = self.backend_with_lie(ref, data, **lie)
            _, taken = self.try_read(ref, backend, 1000)
            if wires.told:
                self.check_taken(taken, data, f"a server with {lie}", 1000)

    def test_c16_an_image_that_changes_between_requests_is_noticed(self) -> None:
        """A resumed download would be half of one image and half of another."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        backend, wires = self.backend_with_lie(ref, data, changed_from=1)
        if self.honest.answered.get(b"etag") is None:
            self.skipTest("the server sends no ETag")
        source, first = self.try_read(ref, backend)
        self.check_taken(first, data, "the first request")
        if source is None or source.image.version is None or not source.seekable:
            self.skipTest("the source does not promise to notice: it has no version")
            raise AssertionError("unreachable")
        if _is_addressed_by_content(source):
            self.skipTest("the version is the digest of the bytes, which the core verifies")
        taken = self.take(source, 1000)
        if wires.told and taken.error is None:
            self.fail("the ETag and all bytes are others, and read(1000) ends well")
        self.check_error(taken.error, "an image with another ETag")
        if taken.error is not None and isinstance(taken.error, ImageBrokerError):
            # A plugin may also have found another digest than that of a part.
            kinds = (ImageChanged, VerificationError)
            if not isinstance(taken.error, kinds) and not taken.error.retryable:
                self.fail(f"an image with another ETag is {taken.how}")

    def test_c13_a_wrong_length_is_an_error(self) -> None:
        """A cut or padded image would pass where the server lies about its length."""
        data = random_bytes(_SIZE)
        ref = self.publish(data)
        for more in (10, -10):
            backend, wires = self.backend_with_lie(ref, data, length=more)
            source, taken = self.try_read(ref, backend)
            when = f"a server whose Content-Length is wrong by {more}"
            self.check_error(taken.error, when)
            if not wires.told or source is None or taken.error is not None:
                continue
            if source.image.size != len(taken.data):
                self.fail(f"{when}: {len(taken.data)} bytes, and the record says "
                          f"{source.image.size}")  # fmt: skip


def _exhaust(reading: Any, taken: ReadResult) -> None:
    try:
        for chunk in reading:
            taken.add(chunk)
    except Exception as error:
        taken.error = error


def _is_addressed_by_content(source: ImageSource) -> bool:
    """Whether the version of an image is a digest of its bytes: others cannot have it."""
    strong = source.image.strong_checksum
    return strong is not None and strong[1] in (source.image.version or "")


def _worth_a_retry(error: BaseException) -> bool:
    if isinstance(error, ImageBrokerError):
        return error.retryable
    return isinstance(error, ALLOWED)
