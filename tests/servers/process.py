"""A server's process: started, awaited, and ended together with everything it forked."""

from __future__ import annotations

import abc
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from tests.bounds import HANGS

HOST = "127.0.0.1"

# The kernel sends the "parent died" signal when the *thread* that forked ends. One thread that
# lives as long as the interpreter forks all servers, so that a test may start one from any thread.
_launcher = ThreadPoolExecutor(1, thread_name_prefix="server-launcher")


class StartError(RuntimeError):
    """A server did not come up; the message quotes the end of its log."""


class PortTaken(StartError):
    """Somebody took the port between choosing it and binding it."""


class ServerProcess:
    """One started program. Its output goes to ``log``; ``stop`` ends its whole family."""

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = Path(argv[0]).name
        self.log = log
        self._stop_signal = stop_signal
        # setpriv instead of a preexec_fn: that runs Python between fork and exec, which can
        # deadlock in a process with threads. A polite signal, so that a master ends its workers.
        setpriv = ["setpriv", "--pdeathsig", stop_signal.name.removeprefix("SIG")]
        with log.open("ab") as output:
            self._popen = _launcher.submit(
                subprocess.Popen,
                [*setpriv, *map(str, argv)],
                cwd=cwd,
                env=env,
                pass_fds=tuple(pass_fds),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ).result()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def wait_until(self, ready: Callable[[], bool], seconds: float = 120) -> None:
        """Return when ``ready`` says so; stop the process and raise StartError otherwise."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.alive:
                self._fail(f"ended with status {self._popen.returncode}")
            if time.monotonic() > deadline:
                self._fail(f"was not ready after {seconds:g} s")
            time.sleep(0.01)

    def _fail(self, what: str) -> None:
        self.stop()
        text = self.log.read_text(errors="replace")
        kind = PortTaken if "Address already in use" in text else StartError
        raise kind(f"{self.name} {what}; the end of {self.log}:\n{text[-4000:]}")

    def stop(self, seconds: float = 5) -> None:
        """End the process and all its descendants, by force those that do not listen."""
        # Before the signal: orphans are not found afterwards, and sshd's sessions leave the group.
        family = descendants(self.pid)
        if self.alive:
            self._popen.send_signal(self._stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(seconds)
        if self.alive:
            self._popen.kill()
        self._popen.wait()
        for pid, started in family.items():
            _kill(pid, started)


def descendants(pid: int) -> dict[int, int]:
    """Map the process ids of all children and children's children to their start times."""
    parents: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1]), int(fields[19])
    found: dict[int, int] = {}
    frontier = {pid}
    while frontier:
        frontier = {child for child, (parent, _) in parents.items() if parent in frontier}
        found |= {child: parents[child][1] for child in frontier}
    return found


def _kill(pid: int, started: int) -> None:
    """Kill a process, unless the number is somebody else's by now; return when it has ended."""
    deadline = time.monotonic() + HANGS
    while (fields := _stat(pid)) and int(fields[19]) == started and fields[0] not in "ZX":
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} did not end")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat after the name, state first."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def free_ports(count: int) -> list[int]:
    """Return different ports that were free just now, for servers that cannot bind to port 0."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def accepts(port: int) -> bool:
    """Return whether somebody accepts connections on the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


Started = TypeVar("Started")


def retried(start: Callable[[], Started], attempts: int = 5) -> Started:
    """Call ``start``, which chooses its ports, again when one of them was taken meanwhile."""
    for _ in range(attempts - 1):
        with contextlib.suppress(PortTaken):
            return start()
    return start()


class Server(abc.ABC):
    """A server as a context manager, with a directory of its own.

    The directory is the caller's, or a temporary one that goes away at the end, unless the server
    did not start: then it stays, for its logs.
    """

    directory: Path

    def __init__(self, directory: Path | None = None) -> None:
        self._given_directory = directory

    def start(self) -> None:
        name = type(self).__name__.lower()
        self.directory = self._given_directory or Path(tempfile.mkdtemp(prefix=f"{name}-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self._stop()
            raise

    def stop(self) -> None:
        self._stop()
        if self._given_directory is None:
            shutil.rmtree(self.directory, ignore_errors=True)

    @abc.abstractmethod
    def _start(self) -> None: ...

    @abc.abstractmethod
    def _stop(self) -> None:
        """End what runs; called after a failed start too."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
