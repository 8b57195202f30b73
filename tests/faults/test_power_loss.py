"""Power loss: what was not synced is lost, or is not; dest is the old or the new image all the same.

The system calls of a real download are recorded, and replayed on a model of a disk that may forget
any part of what was not synced. The model is checked after every call.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from testtools.assertions import assert_that
from testtools.matchers import Contains, Equals, GreaterThan

from tests.faults.one_download import DATA, OLD
from tests.faults.write_path import Stage
from tests.servers.fixtures import require

_CALL = re.compile(r"\d+\s+(\w+)\((.*)\)\s+= (\d+)")
_TRACED = (
    "getpriority,pwrite64,ftruncate,fchmod,copy_file_range,ioctl,fsync,fdatasync,rename,renameat,"
    "renameat2,linkat,unlinkat"
)


@dataclass
class Disk:
    """A disk that may forget what was not synced: the contents that dest may have after a loss."""

    old: bytes | None
    #: The part file as it is in memory, and whether the disk is sure to have it.
    part: bytearray = field(default_factory=bytearray)
    synced: bool = False
    renamed: bool = False
    certain: bool = False

    def apply(self, call: str, arguments: str, result: int) -> None:
        if call == "pwrite64":
            offset = int(arguments.rpartition(", ")[2])
            self._change(offset + result)
        elif call in ("copy_file_range", "ioctl"):
            self._change(len(DATA))
        elif call == "ftruncate":
            self._change(int(arguments.rpartition(", ")[2]))
        elif call == "fchmod":
            self.synced = False
        elif call in ("fsync", "fdatasync"):
            if "imagebroker-part" in arguments:
                self.synced = True
            else:
                self.certain = self.renamed
        elif call.startswith("rename"):
            self.renamed = True

    def _change(self, size: int) -> None:
        self.synced = False
        self.part.extend(bytes(max(0, size - len(self.part))))

    def outcomes(self) -> Iterator[str]:
        """What dest may be if the power fails now."""
        if not self.certain:
            yield "old"
        if self.renamed:
            yield "new" if self.synced and len(self.part) == len(DATA) else "partial"


def recorded(log: str) -> Iterator[tuple[str, str, str]]:
    """Name, arguments and result of each call; strace splits one that another thread overlaps."""
    begun: dict[str, str] = {}
    for line in log.splitlines():
        process, _, rest = line.partition(" ")
        if rest.endswith("<unfinished ...>"):
            begun[process] = line.removesuffix("<unfinished ...>")
        elif match := re.search(r"<\.\.\. \w+ resumed>(.*)", line):
            line = begun.pop(process, "") + match[1]
        if found := _CALL.match(line):
            name, arguments, result = found.groups()
            yield name, arguments, result


@pytest.mark.parametrize("local", [False, True], ids=["streamed", "local"])
@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_at_no_instant_can_a_power_loss_leave_anything_but_the_old_or_the_new_image(
    local: bool, existing: bool, tmp_path: Path
) -> None:
    if shutil.which("strace") is None:
        require("strace is not installed: apt-get install strace")
    folder = tmp_path / "stage"
    folder.mkdir()
    stage = Stage(folder, local=local)
    for leftover in stage.dest.iterdir():
        leftover.unlink()
    if existing:
        (stage.dest / "image").write_bytes(OLD)
    log = folder / "log"
    done = stage.traced("strace", "-f", "-y", "-s", "0", "-o", str(log), "-e", f"trace={_TRACED}")
    assert_that(done.returncode, Equals(0), done.stderr)
    calls = list(recorded(log.read_text(errors="replace")))
    marker = [name for name, _, _ in calls].index("getpriority")
    disk, seen = Disk(OLD if existing else None), []
    for name, arguments, result in calls[marker + 1 :]:
        disk.apply(name, arguments, int(result))
        seen.extend(disk.outcomes())
    assert_that(len(seen), GreaterThan(5))
    assert_that("partial" in seen, Equals(False))
    assert_that(list(disk.outcomes()), Equals(["new"]))
    assert_that(seen, Contains("old"))
