"""Bytes other than those a checksum names never become a destination."""

from __future__ import annotations

import hashlib
import io
import random
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals, Is

from imagebroker.exceptions import (
    ChecksumMismatch,
    ChecksumMissing,
    InvalidImageRef,
    PolicyViolation,
    SignatureError,
    VerificationError,
)
from tests.conftest import Scripted
from tests.core.download.destination import DATA, SHA256, WRONG, Destination


class TestPath:
    @pytest.mark.promise("security-6", "verified-whole")
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

    @pytest.mark.promise("C10", "security-27")
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

    @pytest.mark.promise("verified-whole")
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

    @pytest.mark.promise("verified-whole")
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

    @pytest.mark.promise("security-32")
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

    @pytest.mark.promise("security-26")
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

    @pytest.mark.promise("security-26")
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

    @pytest.mark.promise("security-26")
    def test_the_strong_checksum_of_a_record_wins_over_its_md5(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        right_md5 = hashlib.md5(DATA).hexdigest()
        ref, _ = scripted.image(DATA, checksums={"md5": right_md5, "sha512": "0" * 128})
        with pytest.raises(ChecksumMismatch):
            scripted.broker.download(None, ref, dest.path)
        dest.assert_untouched()


@pytest.mark.promise("security-27")
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
