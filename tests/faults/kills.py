"""`kill -9` at any moment of a download; the next one sweeps or goes on, and brings the image."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.faults import stage
from tests.faults.nursery import Nursery
from tests.faults.tally import OTHER, WRONG, Violation

_PATIENCE = 30.0
WAYS = ("streamed", "cloned", "ranges", "resumed", "kept")


@dataclass(frozen=True)
class Point:
    """A few kills, after delays that the number decides."""

    number: int
    faults = 4

    def __str__(self) -> str:
        return f"{self.group} #{self.number}"

    @property
    def way(self) -> str:
        return WAYS[self.number % len(WAYS)]

    @property
    def existing(self) -> bool:
        return self.number // len(WAYS) % 2 == 1

    @property
    def group(self) -> str:
        return f"{self.way}, {'existing' if self.existing else 'new'}"


class Kills:
    """The campaign. "kept" leaves its part when it breaks, "resumed" goes on with such a part."""

    count = 10_000 // Point.faults

    def __init__(self, folder: Path) -> None:
        self._folder, self._dest, self._kept = folder, folder / "dest", folder / "kept"
        self._nursery = Nursery(partial(stage.prepare, folder), stage.settle)
        #: Kills that hit something in the last attempt.
        self.struck = 0
        #: Seconds that a download takes, by way.
        self._lasts: dict[str, float] = {}

    def __enter__(self) -> Self:
        stage.reset(self._dest, existing=False)
        self._nursery.run(stage.download, self._folder, self._dest / "image", "interrupted")
        shutil.copytree(self._dest, self._kept)
        for way in WAYS:
            self._lasts[way] = sorted(self._timed(way) for _ in range(5))[2]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._nursery.close()

    def points(self) -> Iterator[Point]:
        return map(Point, range(self.count))

    def _reset(self, way: str, existing: bool) -> None:
        stage.reset(self._dest, existing=existing, kept=self._kept if way == "resumed" else None)

    def _timed(self, way: str) -> float:
        self._reset(way, False)
        began = time.monotonic()
        answer = self._nursery.run(download, self._folder, self._dest / "image", way)
        if answer.get("end") != "done":
            raise RuntimeError(f"{way}: {answer}")
        return time.monotonic() - began

    def attempt(self, point: Point) -> list[Violation] | None:
        """A row of kills, each in the middle of what the one before it has left, and an end."""
        chance, found = random.Random(point.number), list[Violation]()
        self._reset(point.way, point.existing)
        self.struck = 0
        for _ in range(10 * point.faults):
            killed, wrong = self._strike(point, chance)
            self.struck += killed
            found += wrong
            if found or self.struck == point.faults:
                break
            if not killed:  # it was faster
                self._reset(point.way, point.existing)
        later = self._nursery.run(download, self._folder, self._dest / "image", point.way)
        found += stage.judge_next(self._dest, later)
        return found if found or self.struck else None

    def _strike(self, point: Point, chance: random.Random) -> tuple[bool, list[Violation]]:
        """Whether a download was killed before its end, and what is wrong then."""
        with self._nursery.spawn(download, self._folder, self._dest / "image", point.way) as child:
            child.go()
            time.sleep(chance.uniform(0, self._lasts[point.way]))
            child.kill()
            if not child.wait(_PATIENCE):
                return True, [stage.hang(_PATIENCE)]
            answer: dict[str, Any] | None = child.result(0.1)
        if answer is not None and answer.get("end") != "done":
            return True, [Violation(OTHER, f"it failed by itself: {answer}")]
        found = list(stage.judge(self._dest, existing=point.existing, answer=None, files=0))
        if answer is not None and (self._dest / "image").read_bytes() != stage.DATA:
            found.append(Violation(WRONG, "success was reported, and dest is not the image"))
        return answer is None, found


def download(folder: Path, dest: Path, way: str) -> dict[str, Any]:
    """In a child: a download that keeps its part where the way says so."""
    return stage.download(folder, dest, "resumed" if way == "kept" else way)
