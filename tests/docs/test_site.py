"""The documentation can be built, without a warning, and no page is missing from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals

from tests.bounds import HANGS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages."""
    pytest.importorskip("sphinx", reason="pip install 'imagebroker[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html",
         "-d", folder / "doctrees", ROOT / "docs", folder / "html"],
        capture_output=True, text=True, check=False, timeout=HANGS,
    )  # fmt: skip
    assert_that((done.returncode, done.stderr), Equals((0, "")))
    return folder / "html"


def test_it_is_built_without_a_warning(site: Path) -> None:
    assert_that((site / "index.html").is_file(), Equals(True))


@pytest.mark.parametrize(
    ("page", "holds"),
    [
        ("reference.html", "imagebroker.Broker.download"),
        ("reference.html", "imagebroker.exceptions.ChecksumMismatch"),
        ("reference-configuration.html", "known_hosts"),
        ("reference-configuration.html", "enabled_schemes"),
        ("changes.html", "Not released yet"),
        ("decisions/0001-sources-are-pulled.html", "Consequences"),
    ],
)
def test_what_is_generated_is_there(site: Path, page: str, holds: str) -> None:
    text = (site / page).read_text(encoding="utf-8")
    assert_that(text, Contains(holds))
