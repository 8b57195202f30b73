"""Memory that hosts use, while they run."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

#: Seconds between two looks: each costs some milliseconds for each process, which the hosts do not
#: have then.
_MOMENT = 3.0
_SHARE = re.compile(r"^Pss:\s+(\d+) kB", re.MULTILINE)


class Memory:
    """The most that a host's processes used together, in MiB.

    What counts is the proportional set size: what is a process's own, and its part of what several
    have mapped. The page cache does not count.
    """

    def __init__(self, hosts: Mapping[str, int]) -> None:
        """:param hosts: the first process of each, which may be added to."""
        self._hosts, self._ends = hosts, Event()
        self._second: dict[str, set[int]] = {}
        self._most: dict[str, float] = {}
        self._watching = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._watching.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ends.set()
        self._watching.join()

    def most(self, name: str) -> float:
        return self._most.get(name, 0.0)

    def _watch(self) -> None:
        while not self._ends.is_set():
            began = time.monotonic()
            for name, pid in list(self._hosts.items()):
                self._second.setdefault(name, set()).update(_children(pid))
                used = sum(_used(each) for each in {pid, *self._second[name]})
                self._most[name] = max(self._most.get(name, 0.0), used)
            self._ends.wait(max(0.0, began + _MOMENT - time.monotonic()))


def _children(pid: int) -> set[int]:
    found: set[int] = set()
    for each in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found |= {int(child) for child in each.read_text().split()}
        except OSError:
            continue  # it has ended
    return found


def _used(pid: int) -> float:
    try:
        match = _SHARE.search(Path(f"/proc/{pid}/smaps_rollup").read_text())
    except OSError:
        return 0.0
    return int(match[1]) / 1024 if match else 0.0
