"""A child that is forked within a transfer undoes nothing of its parent's, however it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Equals

from tests.bounds import HANGS
from tests.forks.program import DESTS, REFUSED, WAYS

_ROOT = Path(__file__).parents[2]
STATUS = {
    "sys.exit": 7,
    "exception": 1,
    "os._exit": 7,
    "return": REFUSED,
    "exec": 0,
    "subprocess": 7,
    "multiprocessing": 7,
}


@pytest.mark.promise("forks")
@pytest.mark.parametrize("dest", DESTS)
def test_the_parent_gets_its_image_whatever_a_child_does(tmp_path: Path, dest: str) -> None:
    """It is forked in a callback, and ends with all that an interpreter does at its end."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.forks.program", str(tmp_path), dest],
        check=False, timeout=HANGS, capture_output=True, text=True, cwd=_ROOT,
    )  # fmt: skip
    assert_that(done.returncode, Equals(0), done.stdout + done.stderr[-3000:])
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert_that([each["way"] for each in found], Equals([way for way in WAYS for _ in (1, 3)]))
    for each in found:
        left = [] if dest == "reader" else ["image"]
        expected = {"way": each["way"], "status": STATUS[each["way"]], "attempts": 1, "closed": 1,
                    "right": True, "left": left}  # fmt: skip
        assert_that(each, Equals(expected))
