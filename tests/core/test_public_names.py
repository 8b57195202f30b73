"""What others may rely on: the exported names, the errors, and what survives pickling."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, Is, MatchesStructure, Not

import imagebroker
import imagebroker.plugin
from imagebroker import exceptions
from imagebroker.exceptions import ImageBrokerError

#: Pinned: other people's code catches these.
ERRORS = {
    "ImageBrokerError", "InvalidImageRef", "ConfigError", "SchemeNotEnabled", "BackendLoadError",
    "PolicyViolation", "UnsupportedOperation", "ImageNotFound", "NotAuthorized", "ImageChanged",
    "TransferError", "BackendError", "VerificationError", "DestinationError", "Conflict",
    "QuotaExceeded",
}  # fmt: skip

IMAGEBROKER = ERRORS | {
    "BackendHost", "BackendInfo", "Broker", "Download", "Image", "ImageBackend", "ImageData",
    "ImageQuery", "ImageReader", "ImageRef", "ImageSource", "Location", "Progress", "RefForm",
    "Member", "Resolution", "Store", "Target", "__version__",
}  # fmt: skip

#: A plugin is asked only where its scheme is enabled.
PLUGIN = (ERRORS - {"SchemeNotEnabled"}) | {
    "ACTIVE", "API_VERSION", "BackendHost", "Buffer", "Context", "FAILURE", "FileState", "Finding", "OK", "WARNING", "FormatError", "Gone", "Image",
    "ImageBackend", "ImageData", "ImageQuery", "ImageRef", "ImageSource", "Limits", "Location",
    "NotReady", "MalformedAnswer", "Options", "Proxy", "RangeIgnored", "RefForm", "TooLarge", "TransferTimeout",
    "UnconfirmedEnd", "UploadFailed", "entry_points", "foreign_coding", "forks", "is_loopback", "peer", "printable", "redact", "visible",
    "Member", "Store", "Target", "make_private", "open_owned", "own_folder", "own_home", "own_login",
}  # fmt: skip

KINDS = [
    kind
    for kind in vars(exceptions).values()
    if isinstance(kind, type) and issubclass(kind, ImageBrokerError)
]


@pytest.mark.parametrize(
    ("module", "names"), [(imagebroker, IMAGEBROKER), (imagebroker.plugin, PLUGIN)]
)
def test_what_is_exported_is_exactly_what_is_meant(module: Any, names: set[str]) -> None:
    assert_that(set(module.__all__), Equals(names))
    for name in names:
        assert getattr(module, name) is not None, name


def test_the_package_shows_its_names_and_refuses_others() -> None:
    assert_that(set(dir(imagebroker)), Equals(IMAGEBROKER))
    with pytest.raises(AttributeError, match="Brokre"):
        imagebroker.Brokre  # noqa: B018


def test_every_public_class_says_what_it_is_for() -> None:
    for name in (IMAGEBROKER | PLUGIN) - {
        "__version__",
        "ACTIVE",
        "API_VERSION",
        "Buffer",
        "FAILURE",
        "OK",
        "WARNING",
    }:
        value = getattr(imagebroker, name, None) or getattr(imagebroker.plugin, name)
        assert inspect.getdoc(value), f"{name} has no docstring"


def test_every_error_is_in_the_tree_drawn_on_top_of_the_module() -> None:
    drawn = exceptions.__doc__ or ""
    for kind in KINDS:
        assert_that(drawn, Contains(kind.__name__))


def test_every_error_descends_from_the_pinned_one() -> None:
    for kind in KINDS:
        pinned = [base.__name__ for base in kind.__mro__ if base.__name__ in ERRORS]
        assert_that(pinned[-1], Equals("ImageBrokerError"))
        assert kind is ImageBrokerError or len(pinned) > 1, kind.__name__


#: Whether trying the same call again may help, where nobody says otherwise.
RETRYABLE = {
    "ImageChanged", "TransferError", "TransferTimeout", "RangeIgnored", "BackendError", "NotReady",
    "MalformedAnswer", "OutOfMemory", "UnconfirmedEnd",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_pickling_with_all_it_knows(kind: type[ImageBrokerError]) -> None:
    first = kind("what happened", hint="what to do", retry_after=3.0, scheme="glance")
    first.bytes_written = 7
    again = pickle.loads(pickle.dumps(first))
    assert_that(again, MatchesStructure.byEquality(
        hint="what to do", retry_after=3.0, scheme="glance", bytes_written=7,
        retryable=kind.__name__ in RETRYABLE,
    ))  # fmt: skip
    assert_that((type(again), str(again)), Equals((kind, "what happened")))
    turned = pickle.loads(pickle.dumps(kind("x", retryable=not kind.retryable)))
    assert_that(turned.retryable, Is(not kind.retryable))


SECRETS = [
    "https://user:hunter2@host/x", "https://host/x?X-Amz-Signature=hunter2",
    "X-Auth-Token: hunter2", "Authorization: Bearer hunter2", "password=hunter2",
    "{'token': 'hunter2'}", "Set-Cookie: hunter2",
]  # fmt: skip


@pytest.mark.promise("security-20")
@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_is_in_the_text_the_hint_or_the_values_of_an_error(secret: str) -> None:
    error = ImageBrokerError(f"asking {secret} failed", hint=f"try {secret}", url=secret)
    for shown in (error, pickle.loads(pickle.dumps(error))):
        for text in (str(shown), repr(shown), shown.hint, shown.url):
            assert_that(text, Not(Contains("hunter2")))


def test_the_text_of_an_error_is_one_short_line() -> None:
    error = ImageBrokerError("first\r\nsecond \x1b[31mred " + "x" * 10_000_000)
    assert_that(str(error), Not(Contains("\n")))
    assert_that(str(error), Not(Contains("\x1b")))
    assert len(str(error)) <= 1024
