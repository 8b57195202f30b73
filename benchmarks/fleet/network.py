"""Network namespaces around one bridge, each behind a token bucket in both directions."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

#: Bytes that a link may send at once, and milliseconds that a packet may wait for it.
_BURST, _LATENCY = "64kb", "100ms"
#: Bytes of a frame. Every one costs the machine that plays all hosts some of the time that they
#: would have.
_FRAME = "9000"

#: Frames go past the machine's packet filter: it is no part of what is measured.
_UNFILTERED = "cd /proc/sys/net/bridge && echo 0 | tee bridge-nf-call-* >/dev/null; true"


class Network:
    """`addresses` has one for each name; they reach each other and nothing else."""

    def __init__(self, names: Sequence[str], megabits: int) -> None:
        self._prefix = f"ibf{os.getpid()}"
        self._rate = f"{megabits}mbit"
        self._made: list[str] = []
        self.addresses = {name: f"10.213.0.{number}" for number, name in enumerate(names, start=1)}

    def __enter__(self) -> Self:
        self._add("bridge")
        self._run("bridge", "ip", "link", "add", "br0", "type", "bridge")
        self._run("bridge", "sh", "-c", _UNFILTERED)
        self._run("bridge", "ip", "link", "set", "br0", "up")
        for number, (name, address) in enumerate(self.addresses.items()):
            self._add(name)
            outer = f"port{number}"
            _do("ip", "-n", self.namespace("bridge"), "link", "add", outer, "type", "veth", "peer",
                "name", "eth0", "netns", self.namespace(name))  # fmt: skip
            self._run("bridge", "ip", "link", "set", outer, "mtu", _FRAME, "master", "br0", "up")
            self._run(name, "ip", "address", "add", f"{address}/24", "dev", "eth0")
            self._run(name, "ip", "link", "set", "eth0", "mtu", _FRAME, "up")
            self._run(name, "ip", "link", "set", "lo", "up")
            for where, device in (("bridge", outer), (name, "eth0")):
                self._run(where, "tc", "qdisc", "add", "dev", device, "root", "tbf", "rate",
                          self._rate, "burst", _BURST, "latency", _LATENCY)  # fmt: skip
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for name in reversed(self._made):
            subprocess.run(["ip", "netns", "delete", self.namespace(name)], check=False)

    def namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def within(self, name: str, *command: str | Path) -> list[str]:
        """The command, to be run in a namespace."""
        return ["ip", "netns", "exec", self.namespace(name), *map(str, command)]

    def sent(self, name: str) -> int:
        """Bytes that have left a namespace, headers and all."""
        return int(self._read(name, "/sys/class/net/eth0/statistics/tx_bytes"))

    def processes(self, name: str) -> list[int]:
        command = ["ip", "netns", "pids", self.namespace(name)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return [int(pid) for pid in done.stdout.split()]

    def kill(self, name: str) -> None:
        """Whatever runs in a namespace."""
        for pid in self.processes(name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _read(self, name: str, path: str) -> str:
        command = self.within(name, "cat", path)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def _add(self, name: str) -> None:
        _do("ip", "netns", "add", self.namespace(name))
        self._made.append(name)

    def _run(self, name: str, *command: str) -> None:
        _do(*self.within(name, *command))


def _do(*command: str) -> None:
    subprocess.run(command, check=True)
