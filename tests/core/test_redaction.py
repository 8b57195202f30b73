"""What may be shown of text from outside, and what may not."""

from __future__ import annotations

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, LessThan, Not

from imagebroker.redaction import redact


@pytest.mark.parametrize(
    "text",
    [
        "http://h/x?canary", "http://h/x?sig=canary&y=1", "/p?X-Amz-Signature=canary",
        "http://u:canary@h/x", "X-Auth-Token: canary", "Authorization: Basic canary",
        "authorization='Bearer canary'", "password=canary", "'token': 'canary'", "api_key = canary",
        "Set-Cookie: canary", "gAAAAcanarycanary",
    ],
)  # fmt: skip
def test_a_secret_is_not_shown(text: str) -> None:
    assert_that(redact(f"{text}"), Not(Contains("canary")))
    assert_that(redact(f"it failed: {text} and more"), Not(Contains("canary")))


@pytest.mark.parametrize(
    "text",
    ["file:///etc/passwd: sha256 of the caller", "scp://user@host/path", "what is wrong? nobody knows",
     "/var/secret: permission denied"],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert_that(redact(text), Equals(text))


def test_it_is_one_bounded_line() -> None:
    shown = redact("a\r\nb\x1b[31m" + "x" * 10_000_000)
    assert_that(len(shown), LessThan(1100))
    assert_that(shown.isprintable(), Equals(True))
