"""The pictures of the terminal in the documentation show what the command says today."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan

from tests.bounds import HANGS

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"


@pytest.fixture(scope="module")
def fresh(qemu_img: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of runs that are made now."""
    folder = tmp_path_factory.mktemp("pictures")
    subprocess.run([sys.executable, PICTURES / "make.py", folder], check=True, timeout=HANGS)
    return folder


def words(picture: Path) -> str:
    """What can be read in a picture, without what differs from run to run."""
    pieces = re.findall(r"<text [^>]*>(.*?)</text>", picture.read_text(encoding="utf-8"))
    text = " ".join(html.unescape("".join(pieces)).replace("\xa0", " ").split())
    text = re.sub(r"[0-9a-f]{64}", "DIGEST", text)
    return re.sub(r"\d+(\.\d+)?( s|/s| [KM]iB(/s)?)?", "N", text).replace(" ", "")


@pytest.mark.parametrize(
    "name", ["done", "error-scheme", "error-address", "error-checksum", "first-look"]
)
def test_a_picture_shows_what_the_command_says(name: str, fresh: Path) -> None:
    """After a change: `python docs/pictures/make.py`."""
    assert_that(words(PICTURES / f"{name}.svg"), Equals(words(fresh / f"{name}.svg")))


def test_the_bar_is_drawn_and_says_how_much_how_fast_and_how_long(fresh: Path) -> None:
    for folder in (PICTURES, fresh):
        shown = (folder / "progress.svg").read_text(encoding="utf-8")
        assert_that(shown, Contains("━━━━"))
        assert_that(len(re.findall(r"[\d.]+/[\d.]+&#160;MiB", shown)), GreaterThan(0))
        assert_that(len(re.findall(r"MiB/s", shown)), GreaterThan(0))


def test_no_picture_loads_anything_from_elsewhere() -> None:
    for picture in PICTURES.glob("*.svg"):
        text = picture.read_text(encoding="utf-8").replace("http://www.w3.org/", "")
        assert_that(re.findall(r"(?:href|url)\W+https?:", text), Equals([]))
