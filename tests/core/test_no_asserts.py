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


def _asserts() -> Iterator[str]:
    for folder in ("imagebroker", "plugins"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Assert):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}"


@pytest.mark.promise("security-35")
def test_no_assert_statement_decides_anything() -> None:
    """There is none, also for the type checker's sake: nobody has to ask what it is for."""
    assert_that(list(_asserts()), Equals([]))


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
