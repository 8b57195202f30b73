"""What the documentation names is there: files, links, clauses, advisory classes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.snippets import snippets
from tests.docs.test_snippets import DOCUMENTS, ROOT

_TEST = re.compile(r"tests/[\w/]*test_\w+|\btest_\w+|\bTest\w+::\w+")
_FILE = re.compile(r"`((?:imagebroker|plugins|tests|docs|etc|changes)/[\w./-]+)`")
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#[\w-]+)?\)")


def _id(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_no_test_is_named_so_that_renaming_one_breaks_no_document(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for snippet in snippets(document):
        text = text.replace(snippet.text, "")
    assert _TEST.findall(text) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_every_file_and_link_leads_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for snippet in snippets(document):
        text = text.replace(snippet.text, "")
    files = [name for name in _FILE.findall(text) if not (ROOT / name).exists()]
    links = [name for name in _LINK.findall(text) if not (document.parent / name).exists()]
    assert (files, links) == ([], [])


def sections(document: Path, heading: str) -> dict[str, str]:
    """The text below each heading that matches, by the heading's number."""
    parts = re.split(heading, document.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


CLAUSES = sections(ROOT / "docs" / "contract.md", r"^### C(\d+)\. ")
CLASSES = sections(ROOT / "docs" / "security.md", r"^### (\d+)\. ")


def test_the_clauses_of_the_contract_are_numbered_without_a_gap() -> None:
    assert list(CLAUSES) == [str(number) for number in range(1, len(CLAUSES) + 1)]


def test_every_class_of_advisories_is_answered() -> None:
    assert list(CLASSES) == [str(number) for number in range(1, 36)]


def test_the_plugin_names_are_all_in_the_documents() -> None:
    """What a plugin author may import is explained somewhere."""
    import imagebroker.plugin

    text = "".join(
        (ROOT / "docs" / name).read_text(encoding="utf-8")
        for name in ("contract.md", "writing-a-backend.md")
    )
    assert [name for name in imagebroker.plugin.__all__ if name not in text] == []


def test_every_decision_has_a_number_of_its_own_and_stands_in_the_list() -> None:
    folder = ROOT / "docs" / "decisions"
    files = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert len({name[:4] for name in files}) == len(files)
    listed = _LINK.findall((folder / "README.md").read_text(encoding="utf-8"))
    assert listed == files
