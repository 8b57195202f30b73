"""Every system call of the write path fails once with every error, or is the last one."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.faults import stage
from tests.faults.nursery import Child, Nursery
from tests.faults.stage import WAYS
from tests.faults.tally import OTHER, Violation

_FULL = ("ENOSPC", "EIO", "EDQUOT", "EFBIG", "EROFS", "EINTR")
#: What a file system may answer, by call. A call that is not here is not part of the write path.
ERRORS: dict[str, tuple[str, ...]] = {
    "openat": _FULL,
    "open": _FULL,
    "pwrite64": _FULL,
    "write": _FULL,
    "ftruncate": _FULL,
    "fallocate": (*_FULL, "EOPNOTSUPP"),
    "fchmod": _FULL,
    "fsync": _FULL,
    "fdatasync": _FULL,
    "rename": _FULL,
    "renameat": _FULL,
    "renameat2": (*_FULL, "EINVAL"),
    "link": _FULL,
    "linkat": _FULL,
    "copy_file_range": (*_FULL, "EXDEV"),
    "ioctl": (*_FULL, "EOPNOTSUPP", "EXDEV"),
    "flock": ("ENOLCK", "EIO", "EINTR"),
    "fstatfs": ("EIO", "EINTR"),
    "newfstatat": ("EIO",),
    "getdents64": ("EIO",),
    "pread64": ("EIO", "EINTR"),
    "lseek": ("EIO",),
    "unlink": ("EIO", "EROFS"),
    "unlinkat": ("EIO", "EROFS"),
    "close": ("EIO", "EINTR", "ENOSPC", "EDQUOT"),
}
#: An injected error means that the call was not made: what it would have removed stays.
_REMOVES = ("unlink", "unlinkat")
#: Downloads until one has come in several ranges.
_TRIES = 20
_PATIENCE = 30.0
_MARKER = "getpriority"


@dataclass(frozen=True)
class Point:
    """The n-th time that a thread of the download makes a call, and what happens there."""

    way: str
    existing: bool
    call: str
    nth: int
    #: The name of an error, or "SIGKILL": the process dies as it makes the call.
    error: str

    def __str__(self) -> str:
        return f"{self.group} {self.call}#{self.nth} {self.error}"

    @property
    def group(self) -> str:
        return f"{self.way}, {'existing' if self.existing else 'new'}"


class WritePath:
    """The campaign."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._dest, self._kept = folder, folder / "dest", folder / "kept"
        self._log = folder / "trace"
        self._nursery = Nursery(partial(stage.prepare, folder), stage.settle)

    def __enter__(self) -> Self:
        self._prepare_kept()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._nursery.close()

    def _prepare_kept(self) -> None:
        """What an interrupted download leaves, for those that go on with it."""
        stage.reset(self._dest, existing=False)
        answer = self._nursery.run(
            stage.download, self._folder, self._dest / "image", "interrupted"
        )
        if answer["end"] != "error" or len(stage.leftovers(self._dest)) != 2:
            raise RuntimeError(f"nothing was kept: {answer}, {stage.leftovers(self._dest)}")
        shutil.copytree(self._dest, self._kept)
        self._kept_names = stage.leftovers(self._kept)
        self._files = answer["files"]

    def points(self) -> Iterator[Point]:
        for way in WAYS:
            for existing in (False, True):
                for call, count in sorted(self._calls(way, existing).items()):
                    for nth in range(1, count + 1):
                        for error in (*ERRORS[call], "SIGKILL"):
                            yield Point(way, existing, call, nth, error)

    def _reset(self, way: str, existing: bool) -> None:
        stage.reset(self._dest, existing=existing, kept=self._kept if way == "resumed" else None)

    def _calls(self, way: str, existing: bool) -> Counter[str]:
        """How often a thread makes each call, at most."""
        known = ",".join(f"?{call}" for call in ERRORS)
        wanted = {"interrupted": "error"}.get(way, "done")
        for _ in range(_TRIES):
            self._reset(way, existing)
            answer = self._traced(way, f"trace={known},{_MARKER}")
            if answer is None or answer.get("end") != wanted:
                raise RuntimeError(f"{way}: {answer}")
            # Whether a second range pays is a matter of time, also here.
            if way != "ranges" or len(answer["reads"]) > 1:
                break
        else:
            raise RuntimeError("the image always came in one range")
        counts: Counter[tuple[str, str]] = Counter()
        for line in self._log.read_text(errors="replace").splitlines():
            if found := re.match(r"(\d+)\s+(\w+)\(", line):
                if found[2] == _MARKER:
                    break
                counts[found[1], found[2]] += 1
        most: Counter[str] = Counter()
        for (_, call), count in counts.items():
            most[call] = max(most[call], count)
        return most

    def _traced(self, way: str, *expressions: str) -> dict[str, Any] | None:
        """How a download ends under strace; None if it was killed."""
        with self._nursery.spawn(stage.download, self._folder, self._dest / "image", way) as child:
            command = ["strace", "-f", "-o", str(self._log), "-p", str(child.pid)]
            for each in expressions:
                command += ["-e", each]
            with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
                try:
                    return self._ended(child, tracer)
                finally:
                    child.kill()
                    tracer.wait(_PATIENCE)

    def _ended(self, child: Child, tracer: subprocess.Popen[str]) -> dict[str, Any] | None:
        said = tracer.stderr.readline() if tracer.stderr is not None else ""
        if "attached" not in said:
            raise RuntimeError(f"strace says {said!r}")
        child.go()
        answer: dict[str, Any] | None = child.result(_PATIENCE)
        if not child.wait(_PATIENCE):
            raise TimeoutError
        return answer

    def attempt(self, point: Point) -> list[Violation] | None:
        """What is wrong at this point; None if the fault did not strike."""
        self._reset(point.way, point.existing)
        what = "signal=SIGKILL" if point.error == "SIGKILL" else f"error={point.error}"
        try:
            answer = self._traced(
                point.way, f"trace={point.call},{_MARKER}",
                f"inject={point.call}:{what}:when={point.nth}",
            )  # fmt: skip
        except TimeoutError:
            return [stage.hang(_PATIENCE)]
        if not self._struck(point):
            return None
        return list(self._violations(point, answer))

    def _struck(self, point: Point) -> bool:
        before, marker, _ = self._log.read_text(errors="replace").partition(f"{_MARKER}(")
        if point.error == "SIGKILL":
            return not marker
        return "(INJECTED)" in before

    def _violations(self, point: Point, answer: dict[str, Any] | None) -> Iterator[Violation]:
        killed = answer is None
        if killed and point.error != "SIGKILL":
            yield Violation(OTHER, "the process died")
        if answer is not None and point.call == "close":
            answer["files"] = self._files  # one was not closed: the call was not made
        keeping = point.way in stage.KEEPING
        removed = point.call not in _REMOVES
        for found in stage.judge(
            self._dest,
            existing=point.existing,
            answer=answer,
            may_keep=keeping,
            before=self._kept_names if point.way == "resumed" else (),
            files=self._files,
        ):
            if removed or not found.what.startswith("left behind"):
                yield found
        if killed or keeping or not removed:
            way = "resumed" if keeping else point.way
            later = self._nursery.run(stage.download, self._folder, self._dest / "image", way)
            yield from stage.judge_next(self._dest, later)
