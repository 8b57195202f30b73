"""Tables on a terminal: what a person copies out of one is not broken, however narrow it is."""

from __future__ import annotations

import re

import pytest
from testtools.assertions import assert_that
from testtools.matchers import AllMatch, Contains, Equals, HasLength, LessThan

from imagebroker.cli.table import table
from tests.cli.conftest import Shell
from tests.cli.terminal import on_a_terminal

IMAGE = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
ROWS: dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]] = {
    "a list": (("ref", "name", "size"), [(f"file:{IMAGE}", "debian-12-generic-amd64", "20.3 MiB")]),
    "sentences": (
        ("scheme", "problem", "remedy"),
        [("rbd", "the rbd backend needs the modules rados and rbd", "apt-get install python3-rbd")],
    ),
    "lines": (("Field", "Value"), [("checksums", f"md5={'0' * 32}\nsha256={'1' * 64}"), ("x", "")]),
}


@pytest.mark.parametrize("width", [20, 60, 80, 200])
@pytest.mark.parametrize("what", ROWS)
def test_no_word_is_broken(what: str, width: int) -> None:
    names, rows = ROWS[what]
    drawn = table(names, rows, width)
    for row in rows:
        for cell in row:
            for word in cell.split():
                assert_that(re.split(r"[\s|]+", drawn), Contains(word))
    assert_that({len(line) for line in drawn.splitlines()}, HasLength(1))


def test_sentences_are_wrapped_so_that_it_fits() -> None:
    names, rows = ROWS["sentences"]
    drawn = table(names, rows, 60).splitlines()
    assert_that([len(line) for line in drawn], AllMatch(LessThan(61)))
    assert_that(table(names, rows, None).splitlines(), HasLength(5))


def test_a_size_keeps_its_unit() -> None:
    assert_that(table(*ROWS["a list"], 30), Contains("| 20.3 MiB |"))


def test_an_id_is_on_one_line_of_a_terminal(shell: Shell) -> None:
    (shell.work / "disk").write_bytes(b"x" * 1000)
    assert_that(shell.run("create", "--file", "disk", "--id", IMAGE).status, Equals(0))
    screens, status = on_a_terminal(shell, "list", columns=80)
    assert_that(status, Equals(0))
    assert_that(" ".join(screens[-1]), Contains(f"| file:{IMAGE} |"))
