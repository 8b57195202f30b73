"""One row: contenders that do the same work, in turns, and what came out."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

#: Commands that run at the same time.
Stage = Sequence[Sequence[str]]
OURS = "imagebroker"
#: MiB of memory that one process of ours may have, whatever the image.
MOST_MEMORY = 100


class RunError(Exception):
    """A contender failed, was too slow, or stored something else than the image."""


@dataclass(frozen=True)
class Run:
    """One run of one contender, from before its first process to the end of its last."""

    seconds: float
    #: Seconds of the processor, of all its processes.
    cpu: float
    #: MiB that the largest of its processes had at its peak.
    peak: float
    #: What the contender's `count` found afterwards.
    counted: float | None = None


@dataclass(frozen=True)
class Contender:
    """Somebody who does the work, in whole processes, as a user would start them."""

    name: str
    stages: Sequence[Stage]
    #: What one run makes, in addition to the row's destination.
    made: Sequence[Path] = ()
    #: Looks at what one run did, before its files are removed.
    count: Callable[[], float] | None = None
    #: What the program took for the work, by its own clock, where its start is not to count: that
    #: of a service, which starts once. The memory is the service's, too.
    clock: Callable[[], float] | None = None
    #: Why it cannot take part.
    missing: str | None = None


@dataclass(frozen=True)
class Goal:
    """What one of ours has to reach."""

    most: float
    #: The contender whose time ours is divided by; None: the figure itself counts.
    beside: str | None = None
    #: "seconds", "counted" or "peak".
    figure: str = "seconds"
    unit: str = "s"
    #: Seconds to take off first: start-up, where a goal says "apart from it".
    less: Callable[[], float] = lambda: 0.0
    ours: str = OURS


@dataclass(frozen=True)
class Row:
    """Work, those who do it, and what they have to reach."""

    title: str
    contenders: Sequence[Contender]
    goals: Sequence[Goal] = ()
    #: Where the bytes go; removed before and after each run.
    dest: Path | None = None
    #: Raises RunError unless what was stored is right.
    check: Callable[[], None] = lambda: None
    #: Seconds that one run may take.
    limit: float = 120.0
    #: At most so many rounds, where one takes long.
    rounds: int = 1000


@dataclass
class Result:
    """What a row came to."""

    row: Row
    runs: Mapping[str, list[Run]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def median(self, name: str, figure: str) -> float | None:
        found = [getattr(run, figure) for run in self.runs.get(name, ())]
        return statistics.median(found) if found and None not in found else None

    def reached(self, goal: Goal) -> float | None:
        """The figure that a goal is about; None where it could not be measured.

        A ratio is the median of the ratios within each round: what else the machine did at the time
        was much the same for both.
        """
        if goal.beside is None:
            value = self.median(goal.ours, goal.figure)
            return None if value is None else value - goal.less()
        ours, theirs = (self.runs.get(name, []) for name in (goal.ours, goal.beside))
        less = goal.less()
        ratios = [
            (a.seconds - less) / b.seconds for a, b in zip(ours, theirs, strict=False) if b.seconds
        ]
        return statistics.median(ratios) if ratios else None


def hold(row: Row, rounds: int, log: Path, told: Callable[[str], None]) -> Result:
    """Let the contenders take turns; who fails once is out, and the others go on."""
    result = Result(row, {each.name: [] for each in row.contenders})
    result.problems = {each.name: each.missing for each in row.contenders if each.missing}
    for number in range(min(rounds, row.rounds)):
        # Each begins a round once, so that none always follows the same one.
        first = number % len(row.contenders)
        for contender in [*row.contenders[first:], *row.contenders[:first]]:
            if contender.name in result.problems:
                continue
            try:
                run = _one(row, contender, log)
            except RunError as error:
                result.problems[contender.name] = str(error)
                told(f"{row.title}: {contender.name}: {error}")
                continue
            result.runs[contender.name].append(run)
            told(f"{row.title}: {contender.name}: {run.seconds:.2f} s, {run.cpu:.2f} s of CPU")
    return result


def _one(row: Row, contender: Contender, log: Path) -> Run:
    made = [*contender.made, *([row.dest] if row.dest else [])]
    _remove(made)
    try:
        run = measured(contender.stages, row.limit, log)
        row.check()
        if contender.clock is not None:
            run = replace(run, seconds=contender.clock())
        return run if contender.count is None else replace(run, counted=contender.count())
    finally:
        _remove(made)
        _settle(row.dest)


def _remove(paths: Sequence[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _settle(dest: Path | None) -> None:
    """What one run left for the disk to do is not to be paid by the next."""
    if dest is not None:
        subprocess.run(["sync", "-f", str(dest.parent)], check=False)


def measured(stages: Sequence[Stage], limit: float, log: Path) -> Run:
    """Run the stages in processes of their own.

    :raises RunError: one failed, or it took longer than `limit` seconds.
    """
    stages = [[[*map(str, command)] for command in stage] for stage in stages]
    program = [sys.executable, "-ISs", str(Path(__file__).with_name("measure.py"))]
    with log.open("wb") as errors, tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=output, stderr=errors,
            env=environment(log.parent), cwd=log.parent, start_new_session=True,
        )  # fmt: skip
        try:
            process.communicate(json.dumps(stages).encode(), timeout=limit)
        except subprocess.TimeoutExpired:
            raise RunError(f"not done after {limit:.0f} s") from None
        finally:
            for pid in _group(process):
                os.killpg(pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        said = output.read()
    if not said:
        raise RunError(f"measuring failed: {_end_of(log)}")
    found = json.loads(said)
    if found.pop("status"):
        raise RunError(f"failed: {_end_of(log)}")
    return Run(**found)


def _group(process: subprocess.Popen[bytes]) -> Iterator[int]:
    """The session that was made for one measurement, while it has not ended by itself."""
    if process.poll() is None:
        yield process.pid


def environment(home: Path) -> dict[str, str]:
    """What every contender is started with: nothing of the caller's settings and proxies."""
    kept = {"PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "TMPDIR"}
    return {
        **{key: value for key, value in os.environ.items() if key in kept},
        "HOME": str(home), "LANG": "C.UTF-8",
    }  # fmt: skip


def _end_of(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return " / ".join([line.strip() for line in lines if line.strip()][-3:])[-300:]
