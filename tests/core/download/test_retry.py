"""A transfer that breaks goes on where that is proven to be right, and begins again elsewhere."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from testtools.assertions import assert_that
from testtools.matchers import Equals, GreaterThan, MatchesAll

from imagebroker.exceptions import (
    BackendError,
    ImageChanged,
    ImageNotFound,
    PolicyViolation,
    RangeIgnored,
    TransferError,
    TransferTimeout,
    VerificationError,
)
from tests.bounds import in_time
from tests.conftest import Scripted
from tests.core.download.destination import DATA, SHA256, Destination


class TestRetry:
    @pytest.mark.promise("C11", "resumed-as-one-image")
    def test_only_the_missing_bytes_are_read_again_under_a_strong_version(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, script = scripted.image(DATA, version="v1", breaks=[(1500, None), (4321, None)])
        done = scripted.broker.download(None, ref, dest.path)
        dest.assert_complete()
        assert_that(script.reads, Equals([0, 1500, 4321]))
        assert_that(done.resumed_from, Equals(4321))
        assert_that(done.evidence["sha256"], Equals(SHA256))

    @pytest.mark.promise("C11")
    def test_without_a_version_a_required_digest_permits_resuming(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, script = scripted.image(DATA, breaks=[(1500, None)])
        scripted.broker.download(None, ref, dest.path, checksum=f"sha256:{SHA256}")
        dest.assert_complete()
        assert_that(script.reads, Equals([0, 1500]))

    @pytest.mark.promise("C12")
    @pytest.mark.parametrize("how", [{"seekable": False, "version": "v1"}, {"version": None}])
    def test_otherwise_the_transfer_begins_again(
        self, scripted: Scripted, dest: Destination, how: dict[str, Any]
    ) -> None:
        ref, script = scripted.image(DATA, breaks=[(1500, None)], **how)
        scripted.broker.download(None, ref, dest.path)
        dest.assert_complete()
        assert_that(script.reads, Equals([0, 0]))
        assert_that(script.opened, Equals(2))

    @pytest.mark.promise("C16")
    def test_a_peer_that_ignores_ranges_is_asked_from_the_beginning(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        breaks: list[Any] = [(1500, None), (0, RangeIgnored("200 to a range"))]
        ref, script = scripted.image(DATA, version="v1", breaks=breaks)
        scripted.broker.download(None, ref, dest.path)
        dest.assert_complete()
        assert_that(script.reads, Equals([0, 1500, 0]))

    @pytest.mark.promise("C11", "C16", "resumed-as-one-image", "security-28")
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

    @pytest.mark.promise("C15", "retry-budget")
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

    @pytest.mark.promise("retry-budget")
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

    @pytest.mark.promise("C18")
    def test_retry_after_is_honoured_up_to_the_deadline(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, _ = scripted.image(DATA, open_error=BackendError("busy", retry_after=1e9))
        began = time.monotonic()
        with pytest.raises(TransferTimeout):
            scripted.broker.download(None, ref, dest.path, deadline=0.3)
        assert_that(time.monotonic() - began, MatchesAll(GreaterThan(0.25), in_time(1)))
        dest.assert_untouched()

    def test_a_failed_attempts_digest_does_not_leak_into_the_next(
        self, scripted: Scripted, dest: Destination
    ) -> None:
        ref, script = scripted.image(DATA, seekable=False, breaks=[(1500, None)] * 3)
        done = scripted.broker.download(None, ref, dest.path, checksum=f"sha256:{SHA256}")
        assert_that(done.evidence["sha256"], Equals(SHA256))
        assert_that(len(script.reads), Equals(4))


@pytest.mark.promise("resumed-as-one-image")
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
