"""Runs a program on untrusted data in a sandbox: without a network, with only the given files.

bubblewrap gives it namespaces of its own, with the system's programs and libraries read-only, and
nothing else. prlimit bounds its memory, and lets it write to no file. It is killed with the process
that started it.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from types import TracebackType
from typing import IO, Self

from imagebroker.exceptions import UnsupportedOperation
from imagebroker.redaction import redact

LOG = logging.getLogger(__name__)

#: Where programs and their libraries are; links among them stay links.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32")
#: The name of the file that a confined program reads; read-only there, whatever the caller may do.
_INSIDE = "/image"
_MOUNT = ["--ro-bind", "/proc/self/fd/0", _INSIDE, "--"]
#: Runs the program if the file that was mounted is the one that was meant.
_COMPARED = [
    "/bin/sh", "-c", f'test /proc/self/fd/0 -ef {_INSIDE} && exec "$@" </dev/null', "sh",
]  # fmt: skip
#: A search path for services that have none.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: One arena for all threads: the address space is limited.
_ENVIRONMENT = {"PATH": _PATH, "LC_ALL": "C", "MALLOC_ARENA_MAX": "1"}
#: Seconds within which a program tells its version.
_TIMEOUT = 30.0
#: Seconds between two checks of a program that runs.
_POLL_INTERVAL = 0.05
#: Bytes of its last words that are kept.
_LAST_WORDS = 4096


#: Called again and again while a program runs; may raise.
Waiting = Callable[[], object]


@dataclass(frozen=True)
class Confinement:
    """The limits of a program."""

    #: Bytes of address space.
    memory: int
    #: Whether it may only run where it can be kept from everything else.
    required: bool = True


class Running:
    """A program under way; it is gone when this is closed."""

    def __init__(self, process: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
        self._process, self._complaints = process, complaints
        os.set_blocking(complaints.fileno(), False)
        self._said = b""
        self._known: int | None = None

    def listen(self) -> None:
        """Take what it has written to standard error, so that it never waits for us."""
        while chunk := self._complaints.read(65536):
            self._said = (self._said + chunk)[-_LAST_WORDS:]

    def _hung_up(self) -> bool:
        self.listen()
        return self._complaints.read(1) == b""

    @property
    def said(self) -> str:
        """The last lines of it that say what is wrong, for a message."""
        self.listen()
        lines = self._said.decode("utf-8", "replace").split("\n")
        return redact(" ".join(filter(None, map(str.strip, lines)))[-300:])

    def ended(self, seconds: float, waiting: Waiting) -> int | None:
        """Its status, None if it does not end within `seconds`."""
        ends = monotonic() + seconds
        while (status := self._status()) is None and monotonic() < ends:
            waiting()
        return status

    def _status(self) -> int | None:
        """None if it does not end in the next moment."""
        self.listen()
        ends = monotonic() + _POLL_INTERVAL
        while not self._is_over() and monotonic() < ends:
            sleep(_POLL_INTERVAL / 10)
        return self._known

    def _is_over(self) -> bool:
        """Whether its status is known. Asked of the kernel: where somebody else in this process has
        collected it, `Popen` takes it for 0.

        :raises UnsupportedOperation: somebody else has.
        """
        if self._known is None:
            which = os.WEXITED | os.WNOHANG | os.WNOWAIT
            try:
                found = os.waitid(os.P_PID, self._process.pid, which)
            except ChildProcessError as error:
                raise _status_is_lost("something else in this process waits for it") from error
            if found is not None:
                exited = found.si_code == os.CLD_EXITED
                self._known = found.si_status if exited else -found.si_status
        return self._known is not None

    def answer(self, most: int, waiting: Waiting) -> tuple[int, bytes]:
        """Its status, and what it writes to standard output, as far as `most` bytes."""
        stream = self._process.stdout
        if stream is None:
            raise AssertionError("its output was not asked for")
        os.set_blocking(stream.fileno(), False)
        found, status = b"", None
        while status is None:
            status = self._status()
            waiting()
            while chunk := stream.read(65536):
                found = (found + chunk)[:most]
        return status, found

    def close(self) -> None:
        """Kill it, if it still runs, and wait until that is done."""
        self._process.kill()
        self._process.wait()
        # In the sandbox it dies a moment later. What it writes to ends when nobody has it open.
        ends = monotonic() + _TIMEOUT
        while not self._hung_up() and monotonic() < ends:
            sleep(_POLL_INTERVAL / 10)
        for stream in (self._process.stdout, self._complaints):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Program:
    """One that is run confined."""

    def __init__(self, name: str, package: str, confinement: Confinement) -> None:
        """`package`: what to install where it is missing."""
        self._name, self._package, self._confinement = name, package, confinement
        self._checked = False
        self._sandboxed = confinement.required or _path_of("bwrap") is not None

    def check(self, waiting: Waiting) -> None:
        """`waiting` is called again and again, and may raise.

        :raises UnsupportedOperation: it is missing, or cannot be confined here.
        """
        if self._checked:
            return
        try:
            self._try(waiting)
        except UnsupportedOperation:
            if self._confinement.required or not self._sandboxed:
                raise
            self._sandboxed = False
            self._try(waiting)
        self._checked = True
        if not self._sandboxed:
            LOG.warning("%s is not confined: bwrap does not work here", self._name)

    def _try(self, waiting: Waiting) -> None:
        with self.start(["--version"]) as running:
            status = running.ended(_TIMEOUT, waiting)
            if status == 0:
                return
            why = running.said or f"status {status}"
        raise UnsupportedOperation(
            f"{self._name} cannot be run {'confined ' if self._sandboxed else ''}here: {why}",
            hint="allow this user to make namespaces, or set convert_unconfined in [imagebroker]"
            if self._sandboxed
            else f"reinstall {self._package}",
        )

    def start(
        self,
        arguments: Sequence[str],
        *,
        reads: int | None = None,
        fds: Sequence[int] = (),
        output: bool = False,
    ) -> Running:
        """Run it; it has `fds` under their numbers. `output`: its standard output is wanted.

        `reads`: a descriptor of the one file that it may read, under the name `input`.

        :raises UnsupportedOperation: as `check`.
        """
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            # bubblewrap would wait for its own child forever, too.
            raise _status_is_lost("this process ignores SIGCHLD")
        argv = [*self._command(reads is not None), *arguments]
        try:
            process = subprocess.Popen(  # noqa: S603 - a fixed program
                argv, stdin=subprocess.DEVNULL if reads is None else reads,
                stdout=subprocess.PIPE if output else subprocess.DEVNULL, stderr=subprocess.PIPE,
                pass_fds=fds, env=_ENVIRONMENT, cwd="/", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise UnsupportedOperation(
                f"{self._name} cannot be started: {error.strerror or error}", retryable=True
            ) from error
        if process.stderr is None:
            raise AssertionError("its standard error was asked for")
        return Running(process, process.stderr)

    @property
    def input(self) -> str:
        """The path under which it sees the file to read."""
        return _INSIDE if self._sandboxed else "/proc/self/fd/0"

    def _command(self, reads: bool) -> list[str]:
        """The command without its arguments."""
        program = os.path.realpath(_located(self._name, self._package))
        if not self._sandboxed:
            kill = [_located("setpriv", "util-linux"), "--pdeathsig=KILL", "--"]
            return [*self._limits(), *kill, program]
        sandbox = [*self._limits(), *self._sandbox(program)]
        # bubblewrap mounts what has the name of the file: no other one may have got it meanwhile.
        return [*sandbox, *_MOUNT, *_COMPARED, program] if reads else [*sandbox, "--", program]

    def _limits(self) -> list[str]:
        memory = self._confinement.memory
        return [
            _located("prlimit", "util-linux"),
            f"--as={memory}", "--fsize=0", "--core=0", "--nofile=256", "--stack=1048576", "--",
        ]  # fmt: skip

    def _sandbox(self, program: str) -> list[str]:
        try:
            bwrap = _located("bwrap", "bubblewrap")
        except UnsupportedOperation as error:
            error.hint += ", or set convert_unconfined in [imagebroker]"
            raise
        # As process 1: one of bubblewrap's would have the image open from outside, not read-only.
        sandbox = [
            bwrap, "--unshare-all", "--as-pid-1", "--die-with-parent", "--new-session",
            "--cap-drop", "ALL", "--proc", "/proc", "--dev", "/dev", "--chdir", "/",
        ]  # fmt: skip
        for folder in _SYSTEM:
            if os.path.islink(folder):
                sandbox += ["--symlink", os.readlink(folder), folder]
            elif os.path.isdir(folder):
                sandbox += ["--ro-bind", folder, folder]
        sandbox += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
        if not program.startswith(_SYSTEM):
            sandbox += ["--ro-bind", program, program]
        return sandbox


def _status_is_lost(why: str) -> UnsupportedOperation:
    return UnsupportedOperation(
        f"a program cannot be run here: its exit status is lost, because {why}",
        hint="in this process: signal.signal(signal.SIGCHLD, signal.SIG_DFL), and no waitpid(-1)",
    )


def _path_of(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH") or _PATH)


def _located(name: str, package: str) -> str:
    """:raises UnsupportedOperation: it is not installed."""
    found = _path_of(name)
    if found is None:
        raise UnsupportedOperation(f"{name} is not installed", hint=f"install {package}")
    return found
