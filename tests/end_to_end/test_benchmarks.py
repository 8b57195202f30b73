"""A small sample of `python -m benchmarks`, so that it measures when it is needed."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan, HasLength, Not

from benchmarks import table
from benchmarks.bench import MIB, Bench
from benchmarks.contest import Contender, Goal, Result, Row, Run, hold
from tests.bounds import HANGS, in_time
from tests.servers.nginx import Nginx

ROOT = Path(__file__).parents[2]


def test_a_sample_fills_the_table_in_the_docs(nginx: Nginx, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    options = ["--pairs", "1", "--scale", "0.001", "--folder", tmp_path, "--write", page]
    program = [sys.executable, "-m", "benchmarks", "--rows", "import,http,file", *options]
    subprocess.run(program, cwd=ROOT, check=True, capture_output=True, timeout=HANGS)
    lines = page.read_text().splitlines()
    assert_that([lines[0], lines[-1]], Equals(["before", "after"]))
    assert_that(lines, Not(Contains("old")))
    measured = [line for line in lines if "| **imagebroker** |" in line]
    # Three rows; import has a goal of its own, and so has the memory of all.
    assert_that(measured, HasLength(5))
    assert_that("\n".join(measured), Not(Contains("not measured")))
    assert_that(list(tmp_path.glob("benchmarks-*")), Equals([]))


def test_who_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    contenders = [
        Contender("imagebroker", [[["true"]]]),
        Contender("broken", [[["sh", "-c", "echo it is broken >&2; exit 3"]]]),
        Contender("slow", [[["sleep", "60"]]]),
    ]
    row = Row("work", contenders, [Goal(1.0, "broken")], limit=1.0)
    result = hold(row, 2, tmp_path / "log", lambda text: None)
    assert_that({name: len(runs) for name, runs in result.runs.items()},
                Equals({"imagebroker": 2, "broken": 0, "slow": 0}))  # fmt: skip
    assert_that(result.problems["broken"], Contains("it is broken"))
    assert_that(result.problems["slow"], Contains("not done after 1 s"))
    assert_that("\n".join(table.lines(result)), Contains("it is broken"))


def test_a_ratio_compares_within_each_round() -> None:
    ours = [Run(seconds, 0, 0) for seconds in (1.0, 20.0, 3.0)]
    theirs = [Run(seconds, 0, 0) for seconds in (2.0, 40.0, 3.0)]
    row = Row("work", [Contender("imagebroker", []), Contender("other", [])])
    result = Result(row, {"imagebroker": ours, "other": theirs})
    assert_that(result.reached(Goal(1.0, "other")), Equals(0.5))


@pytest.mark.parametrize(
    ("limits", "least", "most"),
    [
        ({}, 0.0, 0.5),
        # One round trip for the handshake, one for the answer, three for four windows.
        ({"delay": 0.05, "window": MIB}, 0.45, 1.2),
        ({"rate": 8 * MIB}, 0.35, 1.2),
    ],
    ids=["plain", "delayed", "limited"],
)
def test_the_proxy_limits_as_it_says(
    nginx: Nginx, tmp_path: Path, limits: dict[str, float], least: float, most: float
) -> None:
    data = bytes(range(256)) * (4 * MIB // 256)
    (nginx.root / "for-the-proxy").write_bytes(data)
    with ExitStack() as stack:
        bench = Bench(tmp_path, 1.0, stack)
        way = stack.enter_context(bench.way(port=nginx.ports["http"], **limits))
        took = []
        for _ in range(3):  # the least, in case the machine is busy
            took.append(_fetched(f"http://127.0.0.1:{way.port}/for-the-proxy", data))
            assert_that(way.handed(), GreaterThan(len(data)))
    assert_that(min(took), GreaterThan(least))
    assert_that(min(took), in_time(most))


def _fetched(url: str, data: bytes) -> float:
    began = time.monotonic()
    with urllib.request.urlopen(url, timeout=20) as answer:
        assert_that(answer.read() == data, Equals(True))
    return time.monotonic() - began
