"""No `assert` decides anything, so that `python -O` removes no check."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

from tests.bounds import HANGS

ROOT = Path(__file__).parents[2]


def _differs_under_o(node: ast.AST) -> bool:
    """Whether a statement is left out by `-O`, or can tell that it is used."""
    match node:
        case ast.Assert() | ast.Name(id="__debug__"):
            return True
        case ast.Attribute(attr="flags", value=ast.Name(id="sys")):
            return True
        case ast.ExceptHandler(type=caught) if caught is not None:
            # A refusal that is a library's `assert`.
            return any(
                isinstance(each, ast.Name) and each.id == "AssertionError"
                for each in ast.walk(caught)
            )
    return False


def _found(source: str) -> Iterator[int]:
    for node in ast.walk(ast.parse(source)):
        if _differs_under_o(node):
            yield getattr(node, "lineno", 0)


@pytest.mark.promise("security-35")
def test_no_line_of_the_product_means_something_else_under_python_o() -> None:
    """No `assert` either for the type checker's sake: nobody has to ask what it is for."""
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in ("imagebroker", "plugins")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in _found(path.read_text(encoding="utf-8"))
    ]
    assert_that(found, Equals([]))


@pytest.mark.parametrize(
    "line",
    [
        "assert allowed, 'no'",
        "if __debug__: check()",
        "if not sys.flags.optimize: check()",
        "try: parse()\nexcept (ValueError, AssertionError): refuse()",
    ],
)
def test_what_would_is_found(line: str) -> None:
    assert_that(len(list(_found(line))), Equals(1))


@pytest.mark.promise("security-35")
def test_under_python_o_the_same_is_refused() -> None:
    """The matchers of testtools are functions: -O does not touch them."""
    done = subprocess.run(
        [sys.executable, "-O", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
         "-W", "ignore::pytest.PytestConfigWarning", "tests/model/test_reference.py",
         "tests/backends/test_registry.py", "tests/backends/boundary"],
        cwd=ROOT, check=False, timeout=HANGS, capture_output=True, text=True,
    )  # fmt: skip
    assert_that(done.returncode, Equals(0), done.stdout[-2000:])
