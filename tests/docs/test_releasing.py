"""The changelog of a release is assembled from the files in changes/, as docs/releasing.md says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, MatchesRegex

from tests.bounds import HANGS

ROOT = Path(__file__).parents[2]
FRAGMENTS = sorted(
    path
    for path in (ROOT / "changes").glob("*.md")
    if path.name not in ("README.md", "template.md")
)
KINDS = {"security": "Security", "removal": "Removed", "change": "Changed", "feature": "New",
         "fix": "Fixed"}  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """What a release touches, in a repository of its own."""
    pytest.importorskip("towncrier", reason="needs imagebroker[test]")
    shutil.copytree(ROOT / "changes", tmp_path / "changes")
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    for command in (["git", "init", "-q"], ["git", "add", "."]):
        subprocess.run(command, cwd=tmp_path, check=True, timeout=HANGS)
    return tmp_path


def build(repository: Path, version: str) -> str:
    """Assemble the changelog; returns it."""
    subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--yes", "--version", version,
         "--date", "2026-12-01"],
        cwd=repository, check=True, timeout=HANGS, capture_output=True,
    )  # fmt: skip
    return (repository / "CHANGELOG.md").read_text(encoding="utf-8")


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_release_moves_every_fragment_into_the_changelog(repository: Path) -> None:
    changelog = build(repository, "9.8.7")
    assert_that(changelog, Contains("\n## 9.8.7 (2026-12-01)\n"))
    titles = re.findall(r"^### (.*)$", changelog, flags=re.MULTILINE)
    there = {path.name.split(".")[-2] for path in FRAGMENTS}
    assert_that(titles, Equals([title for kind, title in KINDS.items() if kind in there]))
    for fragment in FRAGMENTS:
        assert_that(words(changelog), Contains(words(fragment.read_text(encoding="utf-8"))))
    left = sorted(path.name for path in (repository / "changes").iterdir())
    assert_that(left, Equals(["README.md", "template.md"]))


def test_the_newest_release_is_on_top_and_what_was_there_stays(repository: Path) -> None:
    before = (repository / "CHANGELOG.md").read_text(encoding="utf-8")
    first = build(repository, "9.8.7")
    assert_that(first.startswith(before.rstrip("\n")), Equals(True))
    (repository / "changes" / "one.fix.md").write_text("One thing less is wrong.\n")
    second = build(repository, "9.8.8")
    assert_that(
        re.findall(r"^## (\S+)", second, flags=re.MULTILINE)[:2], Equals(["9.8.8", "9.8.7"])
    )
    assert_that(second, Contains("### Fixed\n\n- One thing less is wrong.\n"))
    assert_that(second.endswith(first.partition("## 9.8.7")[2]), Equals(True))


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda path: path.name)
def test_every_fragment_has_a_kind(fragment: Path) -> None:
    assert_that(fragment.name, MatchesRegex(rf"[a-z0-9-]+\.({'|'.join(KINDS)})\.md\Z"))
