"""Hosts that share a download, while one of them lies, one is killed, connections to the backend
are cut, and the rendezvous dies.

Whatever happens, a host that says that it has the image has its bytes, and those that nothing
happens to have it in the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults.tally import HANG, LEAK, OTHER, PARTIAL, WRONG, Violation
from tests.servers.nginx import Nginx
from tests.servers.process import HOST
from tests.servers.tcp import Fault, TcpProxy
from tests.swarm.fleet import Fleet, Host, published
from tests.swarm.lies import LIES

_ROOT = Path(__file__).parents[2]
_MIB = 1024 * 1024
_SIZE = 6 * _MIB + 12345
#: Bytes a second of one connection to the backend: so slow that hosts meet.
_RATE = _MIB
#: Seconds within which all of it happens, and within which it must be over.
_MOMENTS, _PATIENCE = 3.0, 300.0
KILLED = ("first process", "second process", "both processes")


@dataclass(frozen=True)
class Point:
    """One image for four hosts: a liar, a kill, cuts and a rendezvous that dies."""

    number: int
    faults = 5

    def __str__(self) -> str:
        return f"{self.group} #{self.number}"

    @property
    def lie(self) -> str:
        return LIES[self.number % len(LIES)]

    @property
    def killed(self) -> str:
        return KILLED[self.number // len(LIES) % len(KILLED)]

    @property
    def begun(self) -> bool:
        """It happens to hosts that are in the swarm, not to those that begin."""
        return self.number // len(LIES) // len(KILLED) % 2 == 0

    @property
    def group(self) -> str:
        return f"{self.lie}, {self.killed} killed"


class Swarm:
    """The campaign."""

    count = 240

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self.struck = Point.faults

    def __enter__(self) -> Self:
        root = self._folder / "www"
        root.mkdir()
        nginx = self._stack.enter_context(Nginx(root, directory=self._folder / "nginx"))
        self._proxy = self._stack.enter_context(
            TcpProxy(HOST, nginx.ports["http"], Fault(rate=_RATE))
        )
        data, self._checksum = published(root, "image.raw", _SIZE)
        self._digest = hashlib.sha256(data).hexdigest()
        self._url = f"http://{HOST}:{self._proxy.port}/image.raw"
        self._fleet = Fleet(self._folder / "fleet", 4)
        self._stack.callback(self._fleet.close)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def points(self) -> Iterator[Point]:
        return (Point(number) for number in range(self.count))

    def attempt(self, point: Point) -> list[Violation]:
        draw = random.Random(point.number)
        fleet = self._fleet.with_rendezvous()
        *honest, killed, liar = fleet.hosts
        for host in fleet.hosts:
            host.image.unlink(missing_ok=True)
            host.output = ""
            host.configure("swarm_linger = 1")
        lying = self._lie(liar, point.lie)
        try:
            for host in (*honest, killed):
                host.download(self._url, self._checksum)
            if point.begun:
                for host in (*honest, killed):
                    with suppress(AssertionError):  # it is over already
                        host.read_until("listening at")
            self._strike(point, killed, draw)
            return [
                *(found for host in honest for found in self._judged(host)),
                *self._killed(killed, point),
                *(found for host in honest for found in _left(host)),
            ]
        finally:
            lying.kill()
            lying.communicate()
            if fleet.rendezvous is not None:
                fleet.rendezvous.kill()
                fleet.rendezvous.wait()
            for host in fleet.hosts:
                host.end()
                _end_all(host)

    # -- what happens ----------------------------------------------------------------------------

    def _lie(self, host: Host, tells: str) -> subprocess.Popen[bytes]:
        spool, pki, fleet = host.directory / "lies", self._fleet.pki, self._fleet
        shutil.rmtree(spool, ignore_errors=True)
        rendezvous = fleet.options[0].partition(" = ")[2]
        config = {
            "tells": tells, "url": self._url, "digest": self._digest, "size": _SIZE,
            "spool": str(spool), "address": host.address, "members": [],
            "rendezvous": [rendezvous], "ca": str(pki / "ca.pem"),
            "certificate": str(pki / f"{host.name}.pem"), "key": str(pki / f"{host.name}.key"),
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "tests.swarm.liar", json.dumps(config)], cwd=_ROOT,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def _strike(self, point: Point, host: Host, draw: random.Random) -> None:
        """In an order, and at moments, that the number decides."""
        assert self._fleet.rendezvous is not None
        what: list[Callable[[], None]] = [
            lambda: _kill(host, point.killed),
            self._fleet.rendezvous.kill,
            lambda: self._proxy.cut_all(reset=point.number % 2 == 0),
            lambda: self._proxy.cut_all(reset=point.number % 2 == 1),
        ]
        draw.shuffle(what)
        began = time.monotonic()
        for when, each in zip(sorted(draw.uniform(0, _MOMENTS) for _ in what), what, strict=True):
            time.sleep(max(0.0, began + when - time.monotonic()))
            each()

    # -- what came of it -------------------------------------------------------------------------

    def _judged(self, host: Host) -> Iterator[Violation]:
        try:
            host.output += host.process.communicate(timeout=_PATIENCE)[0]
        except subprocess.TimeoutExpired:
            yield Violation(HANG, f"{host.name} after {_PATIENCE:.0f} s")
            return
        if host.process.returncode:
            yield Violation(OTHER, f"{host.name} failed: {host.output[-500:]}")
        yield from self._looked_at(host, host.process.returncode == 0)

    def _killed(self, host: Host, point: Point) -> Iterator[Violation]:
        """Who lost its second process only has the image."""
        if point.killed == "second process":
            yield from self._judged(host)
            return
        host.process.communicate()
        yield from self._looked_at(host, succeeded=False)

    def _looked_at(self, host: Host, succeeded: bool) -> Iterator[Violation]:
        if not host.image.exists():
            if succeeded:
                yield Violation(WRONG, f"{host.name} has nothing")
            return
        found = hashlib.sha256(host.image.read_bytes()).hexdigest()
        if found != self._digest:
            yield Violation(WRONG if succeeded else PARTIAL, f"{host.name} has {found}")


def _left(host: Host) -> Iterator[Violation]:
    """Files of a download that is over; the second process may stay a moment."""
    ends = time.monotonic() + 60
    while host.spooled and time.monotonic() < ends:
        time.sleep(0.1)
    if host.spooled:
        yield Violation(LEAK, f"{host.name}: {host.spooled}")


def _kill(host: Host, which: str) -> None:
    second = _second(host)
    if which != "first process":
        for pid in second:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if which != "second process":
        host.process.kill()


def _end_all(host: Host) -> None:
    for pid in _second(host):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(host.directory / "spool", ignore_errors=True)


def _second(host: Host) -> list[int]:
    """The processes that hold a file of this host's spool open, but for the first."""
    spool, found = str(host.directory / "spool"), []
    for each in Path("/proc").iterdir():
        if not each.name.isdigit() or int(each.name) == host.pid:
            continue
        with suppress(OSError):
            if any(os.readlink(fd).startswith(spool) for fd in (each / "fd").iterdir()):
                found.append(int(each.name))
    return found
