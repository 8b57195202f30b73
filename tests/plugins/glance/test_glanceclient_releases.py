"""The oldest python-glanceclient that may be installed behaves as the one that is."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from tests.releases import Library

GLANCECLIENT = Library(
    "glance", "python-glanceclient", "glanceclient",
    # What we know of the library, and what it must not do with a hostile server's answers.
    ("tests/plugins/glance/library", "tests/plugins/glance/hostile/test_records.py"),
)  # fmt: skip


def test_the_oldest_release_passes_the_tests_of_the_library(tmp_path: Path) -> None:
    oldest = f"python-glanceclient=={GLANCECLIENT.oldest}.0"
    GLANCECLIENT.passes_core(GLANCECLIENT.installed(oldest, tmp_path))


def test_the_newest_release_passes_the_tests_of_the_library(tmp_path: Path) -> None:
    folder = GLANCECLIENT.installed(GLANCECLIENT.requirement, tmp_path)
    if GLANCECLIENT.release(folder) == version("python-glanceclient"):
        pytest.skip("the whole suite runs with it")
    GLANCECLIENT.passes_core(folder)
