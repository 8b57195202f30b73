"""Power loss after every system call: any part of what was not synced may be lost."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.faults import stage, store
from tests.faults.disk import TRACED, Disk, Loss, recorded
from tests.faults.nursery import Nursery
from tests.faults.tally import PARTIAL, WRONG, Violation

_MARKER = "getpriority"
#: Ways to change an embedded store, and those of a download.
_STORING = ("create, no store", "create", "delete")
_PATIENCE = 30.0


@dataclass(frozen=True)
class Point:
    """A state of the disk after a power loss."""

    way: str
    existing: bool
    #: The calls that were made before, and which of the states that are possible then this is.
    calls: int
    number: int
    left: Loss
    #: Success had been reported.
    done: bool

    def __str__(self) -> str:
        return f"{self.group} after call {self.calls}, loss {self.number}"

    @property
    def group(self) -> str:
        return f"{self.way}{', existing' if self.existing else ''}"


class PowerLoss:
    """The campaign. States that are alike count once."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._dest, self._kept = folder, folder / "dest", folder / "kept"
        #: The embedded store is a folder in this one.
        self._above = folder / "disk"
        self._nursery = Nursery(partial(stage.prepare, folder), stage.settle)

    def __enter__(self) -> Self:
        stage.reset(self._dest, existing=False)
        self._nursery.run(stage.download, self._folder, self._dest / "image", "interrupted")
        shutil.copytree(self._dest, self._kept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._nursery.close()

    def points(self) -> Iterator[Point]:
        for way in stage.WAYS:
            for existing in (False, True):
                stage.reset(self._dest, existing=existing,
                            kept=self._kept if way == "resumed" else None)  # fmt: skip
                # A part file that was kept was never synced.
                disk = Disk.of(self._dest, certain=way != "resumed")
                if existing:
                    disk.synced[str(self._dest / "image")].synced = stage.OLD
                log = self._traced(stage.download, self._folder, self._dest / "image", way)
                yield from _states(disk, log, way, existing, reports=way != "interrupted")
        for way in _STORING:
            shutil.rmtree(self._above, ignore_errors=True)
            self._above.mkdir()
            if way != "create, no store":
                self._nursery.run(store.create, "before")
            disk = Disk.of(self._above, certain=True)
            verb = store.delete if way == "delete" else store.create
            log = self._traced(verb, "before" if way == "delete" else "created")
            yield from _states(disk, log, way, False, reports=True)

    def _traced(self, function: Any, *arguments: Any) -> str:
        log = self._folder / "trace"
        with self._nursery.spawn(function, *arguments) as child:
            command = [
                "strace", "-f", "-y", "-xx", "-s", "1000000", "-o", str(log), "-p", str(child.pid),
                "-e", "trace=" + ",".join(f"?{call}" for call in (*TRACED, _MARKER)),
            ]  # fmt: skip
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
                said = tracer.stderr.readline() if tracer.stderr is not None else ""
                if "attached" not in said:
                    raise RuntimeError(f"strace says {said!r}")
                child.go()
                answer = child.result(_PATIENCE)
                child.wait(_PATIENCE)
        if answer is None or answer.get("end") not in ("done", "error"):
            raise RuntimeError(f"{arguments}: {answer}")
        return log.read_text(errors="replace")

    def attempt(self, point: Point) -> list[Violation]:
        root = self._above if point.way in _STORING else self._dest
        shutil.rmtree(root, ignore_errors=True)
        folders, files = point.left
        for each in folders:
            Path(each).mkdir(parents=True, exist_ok=True)
        for name, content in files:
            Path(name).write_bytes(content)
            Path(name).chmod(0o600)
        if point.way in _STORING:
            kept = {"create": ["before"]}.get(point.way, [])
            if point.done and point.way != "delete":
                kept = [*kept, "created"]
            answer = self._nursery.run(store.look, kept, point.way == "delete" and point.done)
            return store.judge(answer)
        return list(self._of_download(point))

    def _of_download(self, point: Point) -> Iterator[Violation]:
        image = self._dest / "image"
        content = image.read_bytes() if image.exists() else None
        if content not in (stage.OLD if point.existing else None, stage.DATA):
            yield Violation(PARTIAL, f"{len(content or b'')} bytes, neither old nor new")
        if point.done and content != stage.DATA:
            yield Violation(WRONG, "success was reported, and the image is lost")
        way = "resumed" if point.way in stage.KEEPING else point.way
        answer = self._nursery.run(stage.download, self._folder, image, way)
        yield from stage.judge_next(self._dest, answer)


def _states(disk: Disk, log: str, way: str, existing: bool, *, reports: bool) -> Iterator[Point]:
    """Every state in which the disk may be at some time, each once."""
    chance, seen, done = random.Random(way), set(), False
    for number, (call, arguments, result) in enumerate(recorded(log)):
        if call == _MARKER:
            done = reports
        elif not done:
            disk.apply(call, arguments, result)
        for which, left in enumerate(disk.losses(chance)):
            if (done, left) not in seen:
                seen.add((done, left))
                yield Point(way, existing, number, which, left, done)
        if done:
            return
    if reports:
        raise RuntimeError(f"{way}: the end was not recorded")
