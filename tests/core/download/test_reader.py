"""`open` gives an object that reads like a file."""

from __future__ import annotations

import time

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, LessThan

from imagebroker.exceptions import ChecksumMismatch, ImageNotFound
from tests.conftest import Scripted
from tests.core.download.destination import DATA, SHA256, WRONG


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

    @pytest.mark.promise("readers", "security-27")
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

    @pytest.mark.promise("readers")
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

    @pytest.mark.promise("C14")
    def test_a_slow_consumer_is_no_stall(self, scripted: Scripted) -> None:
        ref, _ = scripted.image(bytes(20 << 20), chunk=1 << 20)
        with scripted.broker.open(None, ref, stall_timeout=1.0) as reader:
            next(reader)
            time.sleep(1.5)  # the subject of the test: time in which nobody reads
            assert_that(len(reader.read()), Equals(19 << 20))

    def test_a_missing_image_is_found_by_open(self, scripted: Scripted) -> None:
        with pytest.raises(ImageNotFound):
            scripted.broker.open(None, "scripted://host/missing")
