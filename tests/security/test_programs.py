"""Two places start a program, with arguments of their own; no other code does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

ROOT = Path(__file__).parents[2]


def _child_makers(tree: ast.AST) -> Iterator[str]:
    """What a module imports or calls that starts programs."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name in ("subprocess", "pty"))
        elif isinstance(node, ast.ImportFrom) and node.module in ("subprocess", "pty"):
            yield node.module
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            starts = ("system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp")
            if node.value.id == "os" and (
                node.attr in starts or node.attr.startswith(("exec", "spawn"))
            ):
                yield f"os.{node.attr}"


#: qemu-img in its sandbox, and the second process of a swarm.
STARTERS = {
    "imagebroker/swarm/second_process.py": ["subprocess"], "imagebroker/system/confined.py": ["subprocess"]
}  # fmt: skip


@pytest.mark.promise("security-15")
def test_no_other_code_of_the_core_or_of_a_backend_starts_a_program() -> None:
    found = {
        str(path.relative_to(ROOT)): [*_child_makers(ast.parse(path.read_text(encoding="utf-8")))]
        for folder in ("imagebroker", "plugins")
        for path in sorted((ROOT / folder).rglob("*.py"))
        # What runs a plugin's tests, and the kit, which looks for children of plugins; and
        # `complete --install`, which asks the user's shell for its folders and sees no image.
        if "testing" not in path.parts
        and path.name not in ("backend_test.py",)
        and not path.match("cli/completion/install.py")
    }
    assert_that({path: names for path, names in found.items() if names}, Equals(STARTERS))
    assert_that([*_child_makers(ast.parse("import subprocess\nos.execv('x', [])"))],
                Equals(["subprocess", "os.execv"]))  # fmt: skip
