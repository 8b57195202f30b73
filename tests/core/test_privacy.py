"""Tests use what a module offers: no private attribute, and no private name, of the product."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from testtools.assertions import assert_that
from testtools.matchers import Equals

ROOT = Path(__file__).parents[2]
#: Modules that are not the product's, whose private names tests may need.
_FOREIGN = {"os", "sys", "self", "cls"}


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _own(tree: ast.AST) -> set[str]:
    """Names that a module gives to attributes, methods and functions of its own."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self", "cls"):
            found.add(node.attr)
    return {name for name in found if _is_private(name)}


def _product() -> set[str]:
    files = [*ROOT.glob("imagebroker/**/*.py"), *ROOT.glob("plugins/**/*.py")]
    return set().union(*(_own(ast.parse(each.read_text())) for each in files))


def _intrusions(path: Path, root: Path, private: set[str]) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    foreign = private - _own(tree)
    where = path.relative_to(root)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in foreign:
            owner = ast.unparse(node.value)
            if owner not in _FOREIGN and owner != "super()":
                yield f"{where}:{node.lineno} {owner}.{node.attr}"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("imagebroker"):
            names = [each.name for each in node.names if _is_private(each.name)]
            yield from (f"{where}:{node.lineno} {node.module}.{name}" for name in names)


def test_no_test_reads_a_private_attribute_of_the_product() -> None:
    private = _product()
    found = [
        each
        for path in sorted(ROOT.glob("tests/**/*.py"))
        for each in _intrusions(path, ROOT, private)
    ]
    assert_that(found, Equals([]))


def test_such_a_use_is_found(tmp_path: Path) -> None:
    test = tmp_path / "test_one.py"
    test.write_text("from imagebroker.broker import _x\nbroker._snapshot\nos._exit\n")
    found = list(_intrusions(test, tmp_path, {"_snapshot", "_exit"}))
    assert_that(
        found, Equals(["test_one.py:1 imagebroker.broker._x", "test_one.py:2 broker._snapshot"])
    )
