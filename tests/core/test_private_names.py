"""A test uses what a room offers: it reads no private name of another module and patches none of its names.

What a test wants to tune is a value that the product takes, so that a module can be rewritten without
rewriting the tests of its neighbours.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

TESTS = Path(__file__).parents[1]
#: Interfaces of Python and of paramiko that have no other name.
FOREIGN = frozenset({"os._exit", "sys._getframe", "channel._check_add_window", "parser._actions"})
PRODUCT = ("imagebroker",)


def own_names(tree: ast.Module) -> frozenset[str]:
    """Private names that a module defines itself: on its objects they are no secret to it."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and _is_self(node.value):
            found.add(node.attr)
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found.update(each.id for each in targets if isinstance(each, ast.Name))
    return frozenset(found)


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def of_product(tree: ast.Module) -> frozenset[str]:
    """The names under which a module has imported something of the product."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PRODUCT):
            found.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            names = [alias for alias in node.names if alias.name.startswith(PRODUCT)]
            found.update(alias.asname or alias.name.partition(".")[0] for alias in names)
    for node in ast.walk(tree):
        if isinstance(node, ast.For) and isinstance(node.target, ast.Name):
            looped = {each.id for each in ast.walk(node.iter) if isinstance(each, ast.Name)}
            found.update({node.target.id} if looped & found else ())
    return frozenset(found)


def private(source: str) -> Iterator[str]:
    """Where a module reads a private name of another, or patches a name of the product."""
    tree = ast.parse(source)
    own, product = own_names(tree), of_product(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if _is_private(alias.name))
        elif isinstance(node, ast.Attribute):
            known = not _is_private(node.attr) or _is_self(node.value) or node.attr in own
            if not known and ast.unparse(node) not in FOREIGN:
                yield node.attr
        elif isinstance(node, ast.Call):
            yield from _patched(node, product)


def _patched(call: ast.Call, product: frozenset[str]) -> Iterator[str]:
    if not isinstance(call.func, ast.Attribute) or call.func.attr != "setattr" or not call.args:
        return
    target = call.args[0]
    if isinstance(target, ast.Constant):
        if str(target.value).startswith(PRODUCT):
            yield str(target.value).rpartition(".")[2]
        return
    root = target
    while isinstance(root, ast.Attribute):
        root = root.value
    if isinstance(root, ast.Name) and root.id in product and len(call.args) > 1:
        yield ast.unparse(call.args[1]).strip("\"'")


def found_below(folder: Path) -> dict[str, frozenset[str]]:
    found = {
        str(path.relative_to(folder)): frozenset(private(path.read_text(encoding="utf-8")))
        for path in sorted(folder.rglob("*.py"))
    }
    return {path: names for path, names in found.items() if names}


def test_no_test_reads_or_patches_what_is_private_to_another_room() -> None:
    assert_that(found_below(TESTS), Equals({}))


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from imagebroker.x import _y", ["_y"]),
        ("def f(x): return x._y", ["_y"]),
        ("class A:\n def __init__(self): self._y = 1\ndef f(a): return a._y", []),
        ("import os\nos._exit(0)", []),
        ("from imagebroker import x\nmonkeypatch.setattr(x, 'LIMIT', 1)", ["LIMIT"]),
        ("from imagebroker.x import Y\npatch.setattr(Y, 'z', 1)", ["z"]),
        ("monkeypatch.setattr('imagebroker_file.x.LIMIT', 1)", ["LIMIT"]),
        (
            "from imagebroker import x, y\nfor z in x, y:\n monkeypatch.setattr(z, 'LIMIT', 1)",
            ["LIMIT"],
        ),
        ("import os\nmonkeypatch.setattr(os, 'fsync', fail)", []),
    ],
)
def test_what_is_private_is_told_from_what_is_not(source: str, names: list[str]) -> None:
    assert_that(list(private(source)), Equals(names))
