"""tests/README.md says for each module of the product where its tests are, and is complete."""

from __future__ import annotations

import re
from pathlib import Path

from testtools.assertions import assert_that
from testtools.matchers import Equals

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
#: Modules without anything to test.
EMPTY = {"imagebroker/__init__.py", "imagebroker/__main__.py", "imagebroker/_version.py"}


def named(pattern: str) -> set[str]:
    return set(re.findall(rf"`({pattern})`", TEXT))


def folders(parent: Path) -> set[str]:
    """The packages in a folder."""
    return {str(each.parent.relative_to(ROOT)) for each in parent.glob("*/__init__.py")}


def test_every_room_of_the_product_has_its_tests() -> None:
    rooms = folders(ROOT / "imagebroker") | folders(ROOT / "plugins")
    rooms |= {str(each.relative_to(ROOT)) for each in (ROOT / "imagebroker").glob("*.py")} - EMPTY
    assert_that(named(r"(?:imagebroker|plugins)/[\w/]+(?:\.py)?"), Equals(rooms))


def test_every_folder_of_tests_is_somebodys() -> None:
    there = folders(ROOT / "tests") - {"tests/plugins"} | folders(ROOT / "tests" / "plugins")
    within = {"tests/core/download", "tests/core/decompression"}
    assert_that(named(r"tests/[\w/]+"), Equals(there | within))


def test_every_folder_that_is_named_has_tests() -> None:
    empty = [each for each in named(r"tests/[\w/]+") if not list((ROOT / each).rglob("test_*.py"))]
    assert_that(empty, Equals([]))
