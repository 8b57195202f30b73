"""What is settled before the first byte, and what is only reported."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from imagebroker.exceptions import VerificationError
from tests.conftest import Scripted
from tests.verify.ways import WAYS, Way

DATA = bytes(range(256)) * 40


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Way:
    made: Way = request.param(tmp_path)
    return made


@pytest.mark.parametrize("whose", ["caller", "record"])
def test_a_digest_that_this_host_cannot_compute_ends_it_before_the_first_byte(
    scripted: Scripted, way: Way, whose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where OpenSSL is in FIPS mode: the algorithm has a name, and no implementation."""
    new = hashlib.new

    def without(name: str, *data: Any, **how: Any) -> Any:
        if name == "blake2b":
            raise ValueError("unsupported hash type blake2b")
        return new(name, *data, **how)

    monkeypatch.setattr(hashlib, "new", without)
    digest = hashlib.blake2b(DATA).hexdigest()
    ref, script = scripted.image(DATA, checksums={"blake2b": digest} if whose == "record" else {})
    with pytest.raises(VerificationError) as caught:
        way.get(scripted.broker, ref, checksum=f"blake2b:{digest}" if whose == "caller" else None)
    assert_that(str(caught.value), Contains("cannot compute blake2b"))
    assert_that(caught.value.hint, Contains("sha256"))
    assert_that(script.reads, Equals([]))
    way.assert_nothing_came(1)


def test_a_disk_larger_than_its_record_says_is_data_for_the_caller(
    scripted: Scripted, way: Way
) -> None:
    """Whether it fits a flavour is the service's to judge: it gets both numbers."""
    virtual = 40 << 30
    header = b"QFI\xfb" + struct.pack(">IQIIQIIQQIIQQQQII", 3, 0, 0, 16, virtual, 0, 80, 196608,
                                      65536, 1, 0, 0, 0, 0, 0, 4, 104)  # fmt: skip
    image = header + bytes(5 * 65536 - len(header))
    ref, _ = scripted.image(image, record={"disk_format": "qcow2", "min_disk": 1})
    _, evidence = way.get(scripted.broker, ref)
    assert_that(evidence["virtual_size"], Equals(virtual))
