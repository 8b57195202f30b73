"""Headers nobody has thought of: a refusal or a verdict, whatever comes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from testtools.assertions import assert_that
from testtools.matchers import Equals

from imagebroker.verify.disk_format import VERIFIABLE
from tests.verify.differential import disagreements
from tests.verify.judging import cut, judged, verdict
from tests.verify.mutations import mutated

pytestmark = pytest.mark.usefixtures("qemu_img")

_DECLARED = st.sampled_from([None, *sorted(VERIFIABLE)])
_PLACES = st.lists(
    st.one_of(
        st.integers(0, 1100),
        st.integers(32_700, 35_000),
        st.integers(190 * 1024, 270 * 1024),
        st.integers(3 * 2**20 - 100, 3 * 2**20 + 70_000),
    ),
    max_size=12,
)


@settings(max_examples=400, deadline=None, database=None)
@given(st.integers(0, 2**32), _DECLARED, _PLACES)
def test_a_mutated_image_is_refused_or_judged_alike_however_it_is_cut(
    number: int, declared: str | None, places: list[int]
) -> None:
    _, data = mutated(number)
    expected = verdict(data, declared)
    assert_that(judged(cut(data, places), declared), Equals(expected))
    # Knowing the size can only make a refusal come earlier.
    known = verdict(data, declared, size=len(data))
    assert_that(isinstance(known, str), Equals(isinstance(expected, str)))


@settings(max_examples=300, deadline=None, database=None)
@given(st.binary(max_size=600), st.integers(0, 2000), _DECLARED, _PLACES)
def test_any_bytes_are_refused_or_judged_alike_however_they_are_cut(
    head: bytes, more: int, declared: str | None, places: list[int]
) -> None:
    data = head + bytes(more)
    expected = verdict(data, declared)
    assert_that(judged(cut(data, places), declared), Equals(expected))


def test_qemu_and_oslo_agree_with_whatever_is_accepted() -> None:
    seen: Counter[str] = Counter()
    found = list(disagreements(range(400), seen))
    assert_that([str(one) for one in found], Equals([]))
    # A test in which nothing is accepted would prove nothing.
    for name in ("raw", "qcow2", "vmdk", "vhd", "vhdx", "vdi", "iso", "luks", "refused"):
        assert_that((name, seen[name] > 3), Equals((name, True)))
