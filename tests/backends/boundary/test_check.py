"""A backend's own check: its findings arrive one by one, bounded and without secrets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength, MatchesListwise, MatchesStructure, Not

from imagebroker.backends.boundary import Boundary
from imagebroker.backends.declaration import Declaration
from imagebroker.plugin import (
    FAILURE,
    OK,
    WARNING,
    BackendHost,
    Context,
    Finding,
    Limits,
    NotAuthorized,
    Options,
)
from tests.backends.boundary.probe import ORIGIN, Probe
from tests.bounds import HANGS

pytestmark = pytest.mark.promise("C38")


def boundary(check: Any, **limits: float) -> Boundary:
    cls = type("Checking", (Probe,), {"check": check, "api_version": 1})
    host = BackendHost(name="probe", options=Options({}), limits=Limits(**limits))  # type: ignore[arg-type]
    return Boundary(Declaration.of(cls), host, ORIGIN)


def test_a_backend_without_a_check_finds_nothing() -> None:
    host = BackendHost(name="probe", options=Options({}))
    assert_that(list(Boundary(Declaration.of(Probe), host, ORIGIN).check(None)), Equals([]))


def test_findings_arrive_as_they_are_found() -> None:
    go = threading.Event()

    def check(self: Probe, context: Context) -> Iterator[Finding]:
        yield Finding("logged in")
        assert go.wait(20)
        yield Finding("the bucket is old", WARNING, "update it", "bucket")

    found = boundary(check).check(None)
    assert_that(next(found), Equals(Finding("logged in", OK)))
    go.set()
    assert_that(list(found), Equals([Finding("the bucket is old", WARNING, "update it", "bucket")]))


def test_an_error_is_the_last_finding() -> None:
    def check(self: Probe, context: Context) -> Iterator[Finding]:
        yield Finding("the server answers")
        raise NotAuthorized("the key is refused", hint="check access_key", option="access_key")

    expected = Finding("the key is refused", FAILURE, "check access_key", "access_key")
    assert_that(list(boundary(check).check(None))[1:], Equals([expected]))


def test_a_bug_of_the_plugin_is_a_finding_that_names_the_plugin() -> None:
    def raises(self: Probe, context: Context) -> Iterator[Finding]:
        raise KeyError("bucket")

    def yields_text(self: Probe, context: Context) -> Iterator[Any]:
        yield "fine"

    def returns_nothing(self: Probe, context: Context) -> Any:
        return None

    for check in (raises, yields_text, returns_nothing):
        is_bug = MatchesStructure(level=Equals(FAILURE), what=Contains(ORIGIN))
        assert_that(list(boundary(check).check(None)), MatchesListwise([is_bug]))


def test_a_check_that_hangs_is_given_up() -> None:
    stop = threading.Event()

    def check(self: Probe, context: Context) -> Iterator[Finding]:
        yield Finding("the server answers")
        stop.wait(HANGS)
        yield Finding("never said")

    found = list(boundary(check).check(None, timeout=1.0))
    stop.set()
    assert_that(found, HasLength(2))
    assert_that(found[1].what, Contains("did not answer check within"))


def test_a_check_that_never_ends_is_cut() -> None:
    def check(self: Probe, context: Context) -> Iterator[Finding]:
        while True:
            yield Finding("again")

    assert_that(list(boundary(check).check(None)), HasLength(100))


def test_secrets_are_hidden_in_every_text() -> None:
    def check(self: Probe, context: Context) -> Iterator[Finding]:
        self.host.conceal("sesame-open-42")
        yield Finding("sesame-open-42 is the key", WARNING, "change sesame-open-42\nnow")
        raise NotAuthorized("sesame-open-42 is refused")

    for finding in boundary(check).check(None):
        assert_that(" ".join(finding), Not(Contains("sesame")))
        assert_that(finding.remedy, Not(Contains("\n")))
