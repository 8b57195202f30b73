"""Runs a suite in processes of a service's environment, and reads what they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tests.services.environment import INSIDE, Environment, write_job
from tests.services.model import Suite

#: Processes that may end in the middle of a test before the suite is given up.
_CRASHES = 50
#: How a process ends that somebody has stopped.
_STOPPED = (-signal.SIGINT, -signal.SIGTERM)


@dataclass(frozen=True)
class Outcome:
    """How a test ended: `ok`, `skip`, `fail`, or `crash` (it took its process along)."""

    kind: str
    text: str = ""

    @property
    def failed(self) -> bool:
        return self.kind in ("fail", "crash")

    @property
    def last_line(self) -> str:
        """The last line of its traceback that says something, shortened."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip(" \t-^~")]
        found = next((x for x in reversed(lines) if not x.startswith(("}}}", "Binary"))), "")
        return found[:200]


class Incomplete(Exception):
    """A suite that could not be run to its end."""


def run_suite(
    environment: Environment,
    suite: Suite,
    work: Path,
    *,
    swapped: bool,
    seconds: float,
    only: Collection[str] = (),
) -> dict[str, Outcome]:
    """The outcome of each test. After a crash the rest is run in another process.

    :param work: a folder for it; tests that have an outcome there are not run again.
    :param seconds: that one test may take.
    :param only: the tests to run; all of them if there are none.
    :raises Incomplete: the process was stopped, or ends without running anything.
    """
    work.mkdir(parents=True, exist_ok=True)
    out, job, log = work / "out", work / "job.json", work / "log"
    out.touch()
    variables = environment.variables(work, suite.environment)
    swap = f"{environment.service.name}_swap" if swapped else None
    for _ in range(_CRASHES):
        _drop_cut_line(out)
        found, _ = _read(out)
        write_job(
            job, swap=swap, modules=suite.modules, select=suite.select, skip=list(found),
            only=list(only), out=str(out), seconds=seconds,
        )  # fmt: skip
        with log.open("ab") as file:
            done = subprocess.run(
                [environment.python, "-W", "ignore", INSIDE / "program.py", job],
                cwd=work, env=variables, stdout=file, stderr=file, check=False,
            )  # fmt: skip
        before = len(found)
        found, running = _read(out)
        if done.returncode == 0:
            return found
        if done.returncode in _STOPPED:
            raise Incomplete(f"interrupted after {len(found)} tests; {work} has their outcomes")
        if running is not None:
            said = log.read_text(errors="replace")[-4000:]
            _write(out, running, f"the process ended with {done.returncode}: {said}")
            found, _ = _read(out)
        elif len(found) == before:
            break
    raise Incomplete(f"{log} ends: {log.read_text(errors='replace')[-4000:]}")


def _read(out: Path) -> tuple[dict[str, Outcome], str | None]:
    """The outcomes so far, the worst of each test, and the test that has not ended."""
    found: dict[str, Outcome] = {}
    running = None
    for line in out.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        test = entry["test"]
        if entry["outcome"] == "begun":
            running = test
            continue
        running = None if running == test else running
        earlier = found.get(test)
        if earlier is None or not earlier.failed:
            found[test] = Outcome(entry["outcome"], entry["text"])
    return found, running


def _drop_cut_line(out: Path) -> None:
    """Remove what a process was writing when it ended."""
    lines = out.read_bytes()
    os.truncate(out, lines.rfind(b"\n") + 1)


def _write(out: Path, test: str, text: str) -> None:
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"test": test, "outcome": "crash", "text": text}) + "\n")
        file.flush()
        os.fsync(file.fileno())
