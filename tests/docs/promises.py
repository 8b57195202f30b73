"""What the documents promise, and which tests say that they hold it (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

_LINE = re.compile(r"^Promises?: (?P<names>`[\w-]+`(?:, `[\w-]+`)*)$", re.MULTILINE)
_ROW = re.compile(r"^\| (?P<name>R\d+) \| ", re.MULTILINE)
_SECTION = re.compile(r"^### (?P<number>C?\d+)\. .+\n(?P<text>(?:(?!#).*\n)*)", re.MULTILINE)
#: A section with one of these promises nothing that a test could hold.
_DISCLAIMERS = ("Not yet:", "Does not apply:")
_MARK = "pytest.mark.promise"


def promised(document: str) -> Iterator[str]:
    """The names of the promises in a document's text; twice what is there twice."""
    for match in _LINE.finditer(document):
        yield from re.findall(r"`([\w-]+)`", match["names"])
    for match in _ROW.finditer(document):
        yield match["name"]
    for match in _SECTION.finditer(document):
        number = match["number"]
        yield number if number.startswith("C") else f"security-{number}"


def disclaimed(document: str) -> Iterator[str]:
    """The numbers of classes about which a document says that no test has to hold them."""
    for match in _SECTION.finditer(document):
        if any(words in match["text"] for words in _DISCLAIMERS):
            yield f"security-{match['number']}"


def held(tests: str) -> Iterator[tuple[str, str]]:
    """The promises that the tests of a module hold, each with the test (empty: the module)."""
    tree = ast.parse(tests)
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            marks = node.value.elts if isinstance(node.value, ast.List) else [node.value]
            yield from ((name, "") for name in _names(marks))
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from _of_test(node, "")


def _of_test(node: ast.FunctionDef | ast.ClassDef, prefix: str) -> Iterator[tuple[str, str]]:
    test = prefix + node.name
    if node.name.lower().startswith("test"):
        yield from ((name, test) for name in _names(node.decorator_list))
    for child in node.body if isinstance(node, ast.ClassDef) else ():
        if isinstance(child, ast.FunctionDef):
            yield from _of_test(child, f"{test}::")


def _names(marks: Iterable[ast.expr]) -> Iterator[str]:
    for mark in marks:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == _MARK:
            yield from (ast.literal_eval(argument) for argument in mark.args)


def held_below(folder: Path) -> frozenset[str]:
    """The promises that any test below `folder` holds."""
    return frozenset(
        name
        for path in folder.rglob("test_*.py")
        for name, _ in held(path.read_text(encoding="utf-8"))
    )
