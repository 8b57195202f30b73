"""A campaign that was stopped goes on where it ended."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from testtools import ExpectedException
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, HasLength

from tests.bounds import HANGS
from tests.faults import __main__ as laboratory
from tests.faults.campaigns import CAMPAIGNS
from tests.faults.kills import Kills
from tests.faults.record import Record
from tests.faults.tally import LEAK, Attempt, Violation

_ROOT = Path(__file__).parents[2]
WRONG_ONE = Attempt("one", "group", 2, [Violation(LEAK, "a file")], 0.5)
MISSED = Attempt("two", "group", 1, None, 0.25)


@dataclass(frozen=True)
class Point:
    number: int
    group = "numbers"


@dataclass
class Numbers:
    """A campaign of twelve points, which may be interrupted."""

    ends_after: int
    tried: list[int] = field(default_factory=list)

    def points(self) -> Iterator[Point]:
        return (Point(number) for number in range(12))

    def attempt(self, point: Point) -> list[Violation]:
        if len(self.tried) == self.ends_after:
            raise KeyboardInterrupt
        self.tried.append(point.number)
        return []


class TestRecord:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "record"

    def test_what_was_tried_is_read_again(self, path: Path) -> None:
        for attempt in (WRONG_ONE, MISSED):
            Record(path, "cuts").add(attempt)
        assert_that(list(Record(path, "cuts").attempts()), Equals([WRONG_ONE, MISSED]))

    def test_campaigns_share_a_file(self, path: Path) -> None:
        Record(path, "cuts").add(WRONG_ONE)
        Record(path, "kills").add(MISSED)
        assert_that(list(Record(path, "kills").attempts()), Equals([MISSED]))

    def test_a_line_that_was_cut_off_spoils_no_other(self, path: Path) -> None:
        record = Record(path, "cuts")
        record.add(WRONG_ONE)
        path.write_bytes(path.read_bytes() + b'\n{"campaign": "cu')
        record.add(MISSED)
        assert_that(list(record.attempts()), Equals([WRONG_ONE, MISSED]))

    def test_a_point_counts_once(self, path: Path) -> None:
        record = Record(path, "cuts")
        for _ in range(2):
            record.add(WRONG_ONE)
        assert_that(list(record.attempts()), HasLength(1))


def test_no_point_is_tried_again_after_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = laboratory.parsed(["--record", str(tmp_path / "record"), "--worker", "0",
                                 "--jobs", "1"])  # fmt: skip
    first, second = Numbers(ends_after=5), Numbers(ends_after=12)
    _replace(monkeypatch, first)
    with ExpectedException(KeyboardInterrupt):
        laboratory.work("kills", options)
    _replace(monkeypatch, second)
    tally = laboratory.work("kills", options)
    assert_that(sorted(first.tried + second.tried), Equals([*range(12)]))
    assert_that(tally.tried, Equals(7))


def test_the_table_counts_what_earlier_runs_tried(tmp_path: Path) -> None:
    path = tmp_path / "record"
    Record(path, "kills").add(WRONG_ONE)
    for points in (3, 6):
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults", "--campaign", "kills", "--jobs", "2",
             "--sample", str(points / Kills.count), "--record", str(path)],
            check=False, timeout=HANGS, capture_output=True, text=True, cwd=_ROOT,
        )  # fmt: skip
        assert_that(done.returncode, Equals(1), done.stderr)
        assert_that(done.stderr, Contains("kills: one: leaks: a file"))
        lines = [json.loads(line) for line in path.read_text().split("\n")[1:]]
        assert_that({line["point"] for line in lines}, HasLength(1 + points))
        assert_that(lines, HasLength(1 + points))
        struck = sum(line["faults"] for line in lines if line["violations"] is not None)
        assert_that(done.stdout, Contains(f"| kills | {struck} of 10,000 |"))


def _replace(monkeypatch: pytest.MonkeyPatch, campaign: Any) -> None:
    monkeypatch.setitem(CAMPAIGNS, "kills", lambda folder: nullcontext(campaign))
