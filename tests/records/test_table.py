"""The table of docs/records.md has a row for each test of the verbs, and no other."""

from __future__ import annotations

import ast
from pathlib import Path

from testtools.assertions import assert_that
from testtools.matchers import Equals

from tests.docs.promises import held, promised

HERE = Path(__file__).parent


def test_every_row_is_a_test_and_every_test_has_a_row() -> None:
    verbs = (HERE / "test_verbs.py").read_text(encoding="utf-8")
    rows = [
        name
        for name in promised((HERE.parents[1] / "docs" / "records.md").read_text())
        if name[0] == "R"
    ]
    tests = [
        node.name
        for node in ast.walk(ast.parse(verbs))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    marked = [(name, test.rpartition("::")[2]) for name, test in held(verbs)]
    assert_that(sorted(name for name, _ in marked), Equals(sorted(rows)))
    assert_that(sorted(test for _, test in marked), Equals(sorted(tests)))
