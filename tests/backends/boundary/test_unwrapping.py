"""What a library wraps around our errors is taken off again, and a bug stays a bug."""

from __future__ import annotations

from typing import Any

import pytest
import requests
import urllib3
from testtools.assertions import assert_that
from testtools.matchers import Contains, Is

from imagebroker.backends.boundary import Boundary
from imagebroker.backends.declaration import Declaration
from imagebroker.plugin import (
    BackendError,
    BackendHost,
    ImageBrokerError,
    ImageNotFound,
    NotAuthorized,
    Options,
    PolicyViolation,
    TransferError,
)
from tests.backends.boundary.probe import ORIGIN, REF, Probe

pytestmark = pytest.mark.promise("C18")


class LibraryError(Exception):
    """As of some library."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args)
        self.kwargs = kwargs


def as_a_cause(error: Exception) -> None:
    raise LibraryError("request failed") from error


def in_its_arguments(error: Exception) -> None:
    raise requests.ConnectionError(error)


def in_a_reason(error: Exception) -> None:
    raise requests.ConnectionError(
        urllib3.exceptions.MaxRetryError(None, "/x", error)  # type: ignore[arg-type]
    )


def as_botocore_does(error: Exception) -> None:
    raise LibraryError("could not connect", error=error)


def in_the_context_alone(error: Exception) -> None:
    try:
        raise error
    except Exception:
        raise LibraryError("communication failed")  # noqa: B904 - as libraries do


WAYS = [as_a_cause, in_its_arguments, in_a_reason, as_botocore_does, in_the_context_alone]
ERRORS = [
    TransferError("gone", retry_after=3.0),
    PolicyViolation("the address is refused", hint="allow it"),
    NotAuthorized("no"),
]


def raised(wrap: Any) -> ImageBrokerError:
    def answer(self: Probe, context: Any, ref: Any) -> Any:
        wrap()

    cls = type("Wrapping", (Probe,), {"answer": answer, "api_version": 1})
    boundary = Boundary(Declaration.of(cls), BackendHost("probe", Options({})), ORIGIN)
    with pytest.raises(ImageBrokerError) as caught:
        boundary.open(None, REF)
    return caught.value


@pytest.mark.parametrize("wrap", WAYS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda each: type(each).__name__)
def test_our_error_comes_out_of_what_a_library_made_of_it(wrap: Any, error: Exception) -> None:
    assert_that(raised(lambda: wrap(error)), Is(error))


def a_bug_while_an_error_is_handled() -> None:
    try:
        raise ImageNotFound("not in the cache")
    except ImageNotFound:
        raise KeyError("a bug")  # noqa: B904


def a_wrapper_that_hides_its_context() -> None:
    try:
        raise ImageNotFound("not in the cache")
    except ImageNotFound:
        raise LibraryError("something else") from None


def a_chain_that_leads_back() -> None:
    first, second = LibraryError("a"), LibraryError("b")
    first.__cause__, second.__cause__ = second, first
    raise first


@pytest.mark.parametrize(
    "bug",
    [a_bug_while_an_error_is_handled, a_wrapper_that_hides_its_context, a_chain_that_leads_back],
)
def test_what_wraps_nothing_of_ours_is_a_bug_of_the_plugin(bug: Any) -> None:
    found = raised(bug)
    assert_that(type(found), Is(BackendError))
    assert_that(str(found), Contains(ORIGIN))
