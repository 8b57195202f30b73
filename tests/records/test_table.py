"""The table of docs/records.md has a row for each test of the verbs, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from testtools.assertions import assert_that
from testtools.matchers import Equals

HERE = Path(__file__).parent


def test_every_row_is_a_test_and_every_test_has_a_row() -> None:
    tree = ast.parse((HERE / "test_verbs.py").read_text())
    tests = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            tests += [f"{node.name}::{f.name}" for f in node.body if isinstance(f, ast.FunctionDef)]
    table = (HERE.parents[1] / "docs" / "records.md").read_text()
    rows = re.findall(r"^\| \w+ \| .+ \| `([\w:]+)` \|$", table, re.MULTILINE)
    named = [name for name in tests if name.rpartition("::")[2].startswith("test_")]
    assert_that(sorted(rows), Equals(sorted(named)))
