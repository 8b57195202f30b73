"""A test module proves one promise, so it stays small enough to be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from testtools.assertions import assert_that
from testtools.matchers import Equals

TESTS = Path(__file__).parents[1]
LINES = 600


def too_long(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*.py")):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > LINES:
            yield f"{path.relative_to(folder)}: {lines} lines"


def test_no_module_of_the_tests_is_longer_than_600_lines() -> None:
    assert_that(list(too_long(TESTS)), Equals([]))


def test_a_module_that_is_longer_is_found(tmp_path: Path) -> None:
    (tmp_path / "test_short.py").write_text("\n" * LINES)
    (tmp_path / "test_long.py").write_text("\n" * (LINES + 1))
    assert_that(list(too_long(tmp_path)), Equals([f"test_long.py: {LINES + 1} lines"]))
