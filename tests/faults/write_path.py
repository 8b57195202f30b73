"""Faults injected into the system calls of a download with strace.

python -m tests.faults.write_path            every point, prints a table
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.one_download import DATA, OLD

#: The calls of the write path that may fail, or be the last thing a process does.
CALLS = (
    "openat", "flock", "fstatfs", "pwrite64", "ftruncate", "fchmod", "fsync", "rename", "renameat",
    "renameat2", "newfstatat", "getdents64", "copy_file_range", "ioctl", "close",
)  # fmt: skip
#: Errors that a file system may answer, by call; "SIGKILL" kills the process at its entry.
ERRORS = {
    "openat": ("ENOSPC", "EIO", "EDQUOT", "EROFS", "SIGKILL"),
    "pwrite64": ("ENOSPC", "EIO", "EDQUOT", "EFBIG", "EINTR", "SIGKILL"),
    "copy_file_range": ("ENOSPC", "EIO", "EDQUOT", "EXDEV", "SIGKILL"),
    "flock": ("ENOLCK", "EINTR", "SIGKILL"),
    "ioctl": ("EOPNOTSUPP", "EXDEV", "EIO", "SIGKILL"),
    "fstatfs": ("EIO", "SIGKILL"),
    "newfstatat": ("EIO", "SIGKILL"),
    "getdents64": ("EIO", "SIGKILL"),
    "close": ("EIO", "SIGKILL"),
}
_USUAL = ("ENOSPC", "EIO", "EDQUOT", "EINTR", "SIGKILL")


@dataclass(frozen=True)
class Point:
    """The n-th occurrence of a call in the process, and what happens there."""

    call: str
    nth: int
    error: str
    existing: bool
    local: bool

    def __str__(self) -> str:
        kind = "existing" if self.existing else "new"
        return f"{self.call}#{self.nth}:{self.error}:{kind}{':local' if self.local else ''}"


class Stage:
    """A folder in which one download runs again and again."""

    def __init__(self, folder: Path, *, local: bool) -> None:
        self.folder, self.dest, self.local = folder, folder / "dest", local
        self.dest.mkdir()
        self.traced()  # byte code is compiled, the plugin is installed
        self.before, self.calls = self._count()

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "tests.faults.one_download", str(self.folder)]
        return [*command, "--local"] if self.local else command

    def traced(self, *tracer: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*tracer, *self._command()], check=False, timeout=60, capture_output=True, text=True
        )

    def _count(self) -> tuple[Counter[str], Counter[str]]:
        """How often each call is made before the marker, and after it."""
        log = self.folder / "trace"
        traced = ",".join(("getpriority", *CALLS))
        self.traced("strace", "-f", "-o", str(log), "-e", f"trace={traced}")
        lines = log.read_text(errors="replace").splitlines()
        names = [m[1] for line in lines if (m := re.match(r"\d+\s+(\w+)\(", line))]
        marker = names.index("getpriority")
        return Counter(names[:marker]), Counter(names[marker + 1 :])

    def points(self, *, existing: bool) -> Iterator[Point]:
        for call, count in sorted(self.calls.items()):
            for nth in range(1, count + 1):
                for error in ERRORS.get(call, _USUAL):
                    yield Point(call, nth, error, existing, self.local)

    def violation(self, point: Point) -> str | None:
        """What is wrong after this fault; None if every promise held."""
        shutil.rmtree(self.dest)
        self.dest.mkdir()
        if point.existing:
            (self.dest / "image").write_bytes(OLD)
        what = "signal=SIGKILL" if point.error == "SIGKILL" else f"error={point.error}"
        nth = self.before[point.call] + point.nth
        done = self.traced(
            "strace", "-f", "-o", "/dev/null", "-e", f"trace={point.call}",
            "-e", f"inject={point.call}:{what}:when={nth}",
        )  # fmt: skip
        return self._judge(point, done)

    def _judge(self, point: Point, done: subprocess.CompletedProcess[str]) -> str | None:
        image = self.dest / "image"
        content = image.read_bytes() if image.exists() else None
        old = OLD if point.existing else None
        left = [p.name for p in self.dest.iterdir() if p.name != "image"]
        if content not in (old, DATA):
            return (
                f"dest holds {len(content or b'')} bytes that are neither the old nor the new image"
            )
        if done.returncode == 0 and content != DATA:
            return "success was reported, and dest is not the image"
        if done.returncode in (8, 9) and content == DATA and "is complete" not in done.stdout:
            return f"an error was reported, and dest was replaced: {done.stdout}"
        if done.returncode not in (0, 8, 9) and point.error != "SIGKILL":
            return f"status {done.returncode}: {done.stderr[-500:]}"
        if left and point.error != "SIGKILL":
            return f"left behind: {left}"
        return None


def main() -> int:
    tried: Counter[str] = Counter()
    violations: list[tuple[Point, str]] = []
    for local in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            stage = Stage(Path(folder), local=local)
            for existing in (False, True):
                for point in stage.points(existing=existing):
                    tried[point.call] += 1
                    if found := stage.violation(point):
                        violations.append((point, found))
                        print(point, found, flush=True)
    print("| call | points tried | violations |\n|---|---|---|")
    for call, count in sorted(tried.items()):
        print(f"| {call} | {count} | {sum(p.call == call for p, _ in violations)} |")
    print(f"| all | {tried.total()} | {len(violations)} |")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
