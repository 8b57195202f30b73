"""The kit finds every deliberately broken backend and names the clause that it breaks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, GreaterThan, HasLength

from imagebroker.plugin import ImageBackend
from imagebroker.testing import BackendContract
from imagebroker.testing.report import FAILED, run
from tests.testing.broken import BROKEN, LEAKED


@pytest.fixture(autouse=True)
def clean_up() -> Iterator[None]:
    """Take away what leaking backends leave behind."""
    yield
    while LEAKED:
        LEAKED.pop()()


@pytest.mark.promise("C31", "C34", "C35")
@pytest.mark.filterwarnings("ignore")  # what a broken backend leaves behind is its bug
@pytest.mark.parametrize(
    ("clause", "backend", "hookup"), BROKEN, ids=lambda each: getattr(each, "__name__", each)
)
def test_a_broken_backend_is_found_and_its_clause_is_named(
    clause: str, backend: type[ImageBackend], hookup: type[BackendContract]
) -> None:
    contract = type(backend.__name__, (hookup,), {"backend_class": backend})
    report = run(contract, only=f"test_{clause.lower()}_")
    assert_that(report.failed_clauses, Contains(clause))
    for each in report.of(FAILED):
        assert all((each.what, each.harm, each.detail)), each


def test_there_are_many_of_them_and_no_two_have_one_name() -> None:
    assert_that(len(BROKEN), GreaterThan(30))
    assert_that({backend.__name__ for _, backend, _ in BROKEN}, HasLength(len(BROKEN)))
