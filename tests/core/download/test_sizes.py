"""An image has the size that it claims, and not more than allowed."""

from __future__ import annotations

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.exceptions import PolicyViolation, TooLarge, TransferError
from tests.conftest import Scripted
from tests.core.download.destination import DATA, SHA256, Destination


class TestPath:
    @pytest.mark.promise("C13", "security-29", "verified-whole")
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

    @pytest.mark.promise("unknown-size")
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

    @pytest.mark.promise("unknown-size")
    def test_an_empty_image_needs_a_record_a_checksum_or_permission(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, _ = scripted.image(b"")
        with pytest.raises(TransferError):
            scripted.broker.download(None, ref, dest.path)
        dest.assert_untouched()
        scripted.broker.download(None, ref, dest.path, allow_empty=True)
        dest.assert_complete(b"")

    @pytest.mark.promise("security-17")
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
