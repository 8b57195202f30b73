"""Downloads that fail, thousands in one process: nothing of them may stay in it.

Memory is what is in use, not what the process has: glibc gives each thread an arena, and keeps what
was freed there. That goes up and down by 8 MiB, without end, as threads come and go. Nor does count
what waits for the garbage collector: an error that this campaign looks at is in a cycle with the
frames of those who look. The rest ends to grow when everything is loaded, and each metric has had
all its labels; a leak does not.
"""

from __future__ import annotations

import ctypes
import gc
import os
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import imagebroker
from tests.faults.cuts import DESTS, Trial, until
from tests.faults.places import SCHEMES, Places, open_files, quiet, threads
from tests.faults.tally import LEAK, OTHER, Violation
from tests.servers.nginx import Nginx
from tests.servers.tcp import Fault

#: Downloads after which memory must not grow any more, and bytes by which it may: 0.3 MiB are what
#: 9,500 more have needed. A leak of 1 KiB a download is found after 1,500.
_WARM = 500
_MEMORY = 1024 * 1024
_EVERY = 50

Errors = tuple[type[BaseException], ...]
#: Ref, arguments of the call, and what it has to raise.
Case = tuple[str, dict[str, Any], Errors]

_BROKEN: Errors = (imagebroker.TransferError, imagebroker.BackendError)
_WRONG = {"checksum": "sha256:" + "0" * 64}


class Stopped(Exception):
    """What a caller's `progress` raises."""


@dataclass(frozen=True)
class Point:
    """One download that fails."""

    number: int
    scheme: str
    failure: str
    dest: str

    def __str__(self) -> str:
        return f"{self.group}, to a {self.dest} #{self.number}"

    @property
    def group(self) -> str:
        return f"{self.scheme}, {self.failure}"


#: How much of the whole each scheme has: ssh and Glance take ten times as long as the others.
_SHARES = {"http": 45, "https": 20, "file": 15, "glance": 10, "scp": 10}
#: What may go wrong in every scheme, and in some.
_FAILURES = ("cut", "reset", "missing", "wrong checksum", "too large", "cancelled", "stopped")
_OWN = {
    "http": ("damaged", "forbidden redirect", "no password", "no such folder", "wrong format"),
    "https": ("untrusted certificate", "another host's certificate"),
    "scp": ("unknown host",),
    "file": ("outside", "no such folder"),
    "glance": ("stall",),
}


class Growth:
    """The campaign."""

    count = 10_000

    def __init__(self, folder: Path) -> None:
        self._folder, self._dest = folder, folder / "dest"
        self._places = Places(folder)
        self._tried = 0
        self._memory = 0

    def __enter__(self) -> Self:
        self._places.__enter__()
        self._broker = self._places.broker(
            "retries = 0\nretry_backoff = 0\nmin_rate = 0\nconnect_timeout = 10\n"
        )
        image = self._broker.create(
            None, {"name": "x", "disk_format": "raw"}, self._places.data, backend="file"
        )
        self._stored = image.ref
        # An idle connection to each server may be kept for the next request.
        self._before = self._state()
        for scheme in (*SCHEMES, "file"):
            for failure in _failures(scheme):
                self._one(Point(0, scheme, failure, "path"))
                until(lambda: threads() <= self._before[1], 5)
                self._before = max(self._before[0], open_files()), *self._before[1:]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._broker.close()
        self._places.__exit__(None, None, None)

    def points(self) -> Iterator[Point]:
        chance = random.Random(9)
        schemes = chance.choices([*_SHARES], [*_SHARES.values()], k=self.count)
        for number, scheme in enumerate(schemes):
            yield Point(number, scheme, chance.choice(_failures(scheme)), chance.choice(DESTS))

    def attempt(self, point: Point) -> list[Violation]:
        found = self._one(point)
        self._tried += 1
        found += self._growth()
        return found

    def _one(self, point: Point) -> list[Violation]:
        ref, how, expected = self._case(point)
        if point.failure == "no such folder":
            dest = self._dest / "missing" / "image"
            error = _error(lambda: self._broker.download(None, ref, dest))
            found = []
        else:
            trial = Trial(self._dest, point.dest, existing=point.number % 2 == 0,
                          data=self._places.data)  # fmt: skip
            error = trial.run(self._broker, ref, **how)
            found = list(trial.violations(error, damaged=point.failure == "damaged"))
        if point.scheme != "file":
            quiet(self._places[point.scheme].proxy)
        if not isinstance(error, expected):
            found.append(Violation(OTHER, f"it ended with {type(error).__name__}: {error}"))
        return found

    def _case(self, point: Point) -> Case:
        ref = self._stored if point.scheme == "file" else self._places[point.scheme].ref
        common: dict[str, Callable[[], Case]] = {
            "wrong checksum": lambda: (ref, _WRONG, (imagebroker.VerificationError,)),
            "too large": lambda: (ref, {"max_size": 1000}, (imagebroker.ImageBrokerError,)),
            "cancelled": lambda: (ref, {"cancel": _Set()}, (imagebroker.ImageBrokerError,)),
            "stopped": lambda: (ref, {"progress": _stop}, (Stopped,)),
            "missing": lambda: (self._missing(point.scheme, ref), {}, (imagebroker.ImageNotFound,)),
            "no such folder": lambda: (ref, {}, (imagebroker.DestinationError,)),
            "wrong format": lambda: (
                ref,
                {"allowed_formats": ["qcow2"]},
                (imagebroker.VerificationError,),
            ),
            "outside": lambda: ("file:///etc/passwd", {}, (imagebroker.PolicyViolation,)),
        }
        if point.failure in common:
            return common[point.failure]()
        return self._of_network(point, ref)

    def _of_network(self, point: Point, ref: str) -> Case:
        proxy, nginx = self._places[point.scheme].proxy, self._places.servers["nginx"]
        if not isinstance(nginx, Nginx):
            raise TypeError(nginx)
        if point.failure in ("cut", "reset"):
            at = random.Random(point.number).randrange(2000, 60_000)
            proxy.fault = Fault(cut_after=at if point.scheme != "scp" else at % 4000,
                                reset=point.failure == "reset")  # fmt: skip
            self._forget_connections(point.scheme)
            return ref, {}, _BROKEN
        if point.failure == "damaged":
            proxy.fault = Fault(corrupt_at=5000)
            self._forget_connections(point.scheme)
            return ref, {"checksum": self._places.checksum}, (imagebroker.VerificationError,)
        if point.failure == "stall":
            proxy.fault = Fault(stall_after=3000)
            self._forget_connections(point.scheme)
            return ref, {"stall_timeout": 0.2}, _BROKEN
        return {
            "forbidden redirect": (nginx.redirect_to("file:///etc/passwd"), {},
                                   (imagebroker.PolicyViolation,)),
            "no password": (nginx.url("image.img", prefix="private"), {},
                            (imagebroker.NotAuthorized,)),
            "untrusted certificate": (f"{nginx.tls_url('self-signed')}/image.img", {},
                                      (imagebroker.ImageBrokerError,)),
            "another host's certificate": (f"{nginx.tls_url('wrong-host')}/image.img", {},
                                           (imagebroker.ImageBrokerError,)),
            "unknown host": (ref.replace("127.0.0.1", "127.0.0.2"), {},
                             (imagebroker.ImageBrokerError,)),
        }[point.failure]  # fmt: skip

    def _forget_connections(self, scheme: str) -> None:
        """A connection that is kept for the next request has the fault of its first one."""
        for passage in [*self._places[scheme].proxy.passages]:
            passage.close()

    def _missing(self, scheme: str, ref: str) -> str:
        if scheme in ("glance", "file"):
            return f"{scheme}:{uuid.uuid4()}"
        return ref.replace("image.img", "none.img").replace("ssh.img", "none.img")

    def _state(self) -> tuple[int, int, int]:
        return open_files(), threads(), _children()

    def _growth(self) -> Iterator[Violation]:
        what = ("descriptors", "threads", "children")
        if not until(lambda: _none_above(self._state(), self._before), 5):
            now = self._state()
            grown = [f"{a} {name} after {b}" for name, a, b in zip(what, now, self._before, strict=True)
                     if a > b]  # fmt: skip
            yield Violation(LEAK, f"{grown}; {[each.name for each in threading.enumerate()]}")
            self._before = now
        if self._tried == _WARM:
            self._memory = _used()
        elif self._tried > _WARM and self._tried % _EVERY == 0:
            used = _used()
            if used > self._memory + _MEMORY:
                grown_by = (used - self._memory) // 1024
                yield Violation(LEAK, f"{grown_by} KiB more memory after {self._tried} downloads")
                self._memory = used


class _Set:
    def is_set(self) -> bool:
        return True


def _stop(progress: Any) -> None:
    raise Stopped


def _error(call: Callable[[], Any]) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


def _failures(scheme: str) -> tuple[str, ...]:
    network = () if scheme != "file" else ("cut", "reset")
    return tuple(f for f in (*_FAILURES, *_OWN.get(scheme, ())) if f not in network)


def _none_above(now: tuple[int, ...], before: tuple[int, ...]) -> bool:
    return all(a <= b for a, b in zip(now, before, strict=True))


def _children() -> int:
    found = 0
    for task in Path("/proc/self/task").iterdir():
        try:
            found += len((task / "children").read_text().split())
        except FileNotFoundError:
            pass  # the thread has ended
    return found


class _MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2 (2.33)."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks",
                     "uordblks", "fordblks", "keepcost")
    )  # fmt: skip


def _used() -> int:
    """Bytes of memory that are in use: resident, and not free within malloc."""
    gc.collect()
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _MallInfo
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") - int(mallinfo().fordblks)
