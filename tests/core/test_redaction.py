"""What may be shown of text from outside, and what may not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, LessThan, Not

from imagebroker.exceptions import TransferError
from imagebroker.model.image import Image, Location
from imagebroker.redaction import Secrets, printable, redact, redact_causes

ROOT = Path(__file__).parents[2]


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


def test_what_is_known_to_be_secret_is_hidden_word_for_word_and_before_it_is_cut() -> None:
    secrets = Secrets()
    secrets.add("canary-of-an-instance", "canary-of-an-instance-2", None, "", "short")
    with secrets.hidden():
        for text in ("it is canary-of-an-instance-2.", "x" * 70 + " canary-of-an-instance"):
            assert_that(redact(text), Not(Contains("canary")))
            assert_that(printable(text, 80), Not(Contains("canary")))
            assert_that(str(TransferError(text, hint=text, ref=text)), Not(Contains("canary")))
        assert_that(redact("a short word"), Equals("a short word"))
    assert_that(redact("canary-of-an-instance"), Equals("canary-of-an-instance"))
    assert_that(repr(secrets), Not(Contains("canary")))


def test_of_very_many_secrets_the_oldest_are_forgotten() -> None:
    secrets = Secrets()
    secrets.add(*(f"secret-{number:06}" for number in range(10_000)))
    assert_that(secrets.hide("secret-009999 secret-000000"), Equals("*** secret-000000"))


def test_the_causes_of_an_error_are_redacted_and_stay_what_they_are() -> None:
    first = OSError(5, "GET http://u:canary@h/x?canary")
    second = ValueError("password=canary", 7)
    second.__context__ = first
    first.__context__ = second  # a circle, as careless code makes them
    error = TransferError("it failed")
    error.__cause__ = second
    redact_causes(error)
    assert_that(f"{first} {second}", Not(Contains("canary")))
    assert_that((first.errno, second.args[1], error.__cause__), Equals((5, 7, second)))


def test_a_record_that_is_printed_has_no_query_and_no_password() -> None:
    image = Image(
        ref="http://h/x?canary", locations=(Location("swift://u:canary@h/x?canary", {"a": "b"}),)
    )
    assert_that(f"{image} {image!r} {[image]}", Not(Contains("canary")))
    assert_that(repr(image), Contains("Image(ref='http://h/x?***'"))


def test_no_error_or_hint_of_ours_is_damaged_by_it() -> None:
    """`set a password: ...` would be shown as `set a password: ***`."""
    damaged = [text for text in _written() if redact(text) != text]
    assert_that(damaged, Equals([]))


def _written() -> Iterator[str]:
    """The sentences in the source, but documentation and the help of options."""
    for file in [*ROOT.glob("imagebroker/**/*.py"), *ROOT.glob("plugins/*/*.py")]:
        if file.name != "options.py":
            tree = ast.parse(file.read_text())
            documentation = {
                node.value for node in ast.walk(tree)
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            }  # fmt: skip
            for node in ast.walk(tree):
                if node not in documentation and (text := _text(node)).count(" ") > 2:
                    yield text


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        parts = (p.value if isinstance(p, ast.Constant) else "NAME" for p in node.values)
        text = "".join(map(str, parts))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    else:
        return ""
    is_pattern = "(?" in text or "\\w" in text
    return "" if is_pattern or "\n" in text or "\t" in text or len(text) > 1000 else text
