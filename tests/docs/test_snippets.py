"""Every code block of the documentation is run, and prints what the document says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.snippets import TESTED, Session, Snippet, compare, environment, snippets

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("*.rst"), *ROOT.glob("docs/**/*.md")])
#: What `pip install .` needs of the source tree.
SOURCES = ("setup.py", "setup.cfg", "pyproject.toml", "README.rst", "LICENSE")


def _id(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_every_block_says_how_it_is_tested(document: Path) -> None:
    forgotten = [
        str(snippet)
        for snippet in snippets(document)
        if (snippet.language in TESTED) != (snippet.mark is not None)
        and snippet.action != "output"
        and snippet.action != "file"
    ]
    assert not forgotten, f"{', '.join(forgotten)}: put a mark above it (CONTRIBUTING.md)"


WITH_TESTS = [d for d in DOCUMENTS if any(snippet.tested for snippet in snippets(d))]


@pytest.mark.parametrize("document", WITH_TESTS, ids=_id)
def test_every_block_does_what_the_document_says(
    document: Path, programs: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    if document.name == "README.rst":
        copy_sources(folder)
    session = Session(folder, environment(tmp_path, programs))
    for snippet in snippets(document):
        if snippet.tested:
            session.run(snippet)


def copy_sources(folder: Path) -> None:
    """A source tree as a newcomer has it, without what this one has grown."""
    for name in SOURCES:
        shutil.copy(ROOT / name, folder)
    for name in ("imagebroker", "plugins", "etc", "docs/man"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


class TestTheseTests:
    """What runs the documents is tested too: a comparison that accepts anything proves nothing."""

    @pytest.mark.parametrize(
        ("expected", "printed"),
        [("a\nb\n", "a\nb\n"), ("a ... c\n", "a b c\n"), ("...\nend\n", "x\ny\nend\n"), ("", "\n")],
    )
    def test_what_matches(self, expected: str, printed: str) -> None:
        compare("here", expected, printed)

    @pytest.mark.parametrize(
        ("expected", "printed"),
        [("a\n", "a\nb\n"), ("a\nb\n", "a\n"), ("a ... c\n", "a\nc\n"), ("", "x\n"), (".\n", "x")],
    )
    def test_what_does_not(self, expected: str, printed: str) -> None:
        with pytest.raises(AssertionError, match="here"):
            compare("here", expected, printed)

    def test_marks_are_found_in_both_languages(self, tmp_path: Path) -> None:
        (tmp_path / "a.md").write_text(
            "text\n\n<!-- test: console exit=3 -->\n```console\n$ x\n```\n\n```python\npass\n```\n"
        )
        (tmp_path / "b.rst").write_text(
            ".. not run: it is long\n.. code-block:: console\n\n    $ x\n    y\n\ntext\n"
        )
        first, second = snippets(tmp_path / "a.md")
        (third,) = snippets(tmp_path / "b.rst")
        assert (first.action, first.arguments, first.text, first.line) == (
            "console", ["exit=3"], "$ x\n", 5,
        )  # fmt: skip
        assert (second.mark, second.language) == (None, "python")
        assert (third.tested, third.mark, third.text) == (False, "not run: it is long", "$ x\ny\n")

    @pytest.mark.parametrize(
        ("mark", "text"),
        [("test: console", "$ false\n"), ("test: console", "$ echo a\nb\n"),
         ("test: python", "1 / 0\n"), ("test: console exit=2", "$ exit 3\n"),
         ("test: console", "$ false\n$ true\n")],
    )  # fmt: skip
    def test_what_fails_is_a_failure(
        self, mark: str, text: str, programs: Path, tmp_path: Path
    ) -> None:
        snippet = Snippet(Path("a.md"), 1, "console", text, mark)
        with pytest.raises(AssertionError, match=r"a\.md:1"):
            Session(tmp_path, environment(tmp_path, programs)).run(snippet)
