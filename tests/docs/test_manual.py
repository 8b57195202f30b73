"""The manual page says what the command's parsers say."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, ContainsAll, Equals

from imagebroker.cli.commands import COMMANDS
from imagebroker.cli.manual import CHECK_STATUSES, STATUSES
from tests.bounds import HANGS

MAN = Path(__file__).parents[2] / "docs" / "man"


def test_the_page_is_what_the_parsers_make() -> None:
    """After a change of options: `python docs/man/make.py > docs/man/imagebroker.1`."""
    done = subprocess.run(
        [sys.executable, MAN / "make.py"], check=True, capture_output=True, text=True, timeout=HANGS
    )
    assert_that(done.stdout, Equals((MAN / "imagebroker.1").read_text(encoding="utf-8")))


def test_the_page_can_be_read_and_has_every_command() -> None:
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.skip("install man-db and groff")
    done = subprocess.run(
        ["man", "-l", "--warnings=w", MAN / "imagebroker.1"],
        check=True, capture_output=True, text=True, timeout=HANGS,
        env={"PATH": "/usr/bin:/bin", "MANWIDTH": "100", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert_that(done.stderr, Equals(""))
    words = " ".join(done.stdout.split())
    assert_that(words, ContainsAll([f"imagebroker {name} [OPTION]..." for name in COMMANDS]))


def test_the_documentation_has_the_same_table_of_exit_statuses() -> None:
    text = (MAN.parent / "command.md").read_text(encoding="utf-8").partition("## Exit status")[2]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert_that(dict(rows[1:]), Equals(STATUSES))
    assert_that(text, Contains(CHECK_STATUSES))
