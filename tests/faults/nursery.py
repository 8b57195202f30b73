"""Processes that have everything imported when they begin: forked by one that did nothing else."""

from __future__ import annotations

import array
import contextlib
import ctypes
import os
import pickle
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

_PR_SET_PDEATHSIG, _PR_SET_PTRACER = 1, 0x59616D61
_LARGEST = 1 << 16
_PIPES = socket.AF_UNIX, socket.SOCK_SEQPACKET


class Child:
    """A process that waits at its gate until `go`, runs one function, and is gone."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        line.settimeout(30)
        self.pid = int(line.recv(_LARGEST))
        # By descriptor: the number may be somebody else's when the process is gone.
        self._process = os.pidfd_open(self.pid)

    def go(self) -> None:
        # A child that was killed at its gate cannot be told.
        with contextlib.suppress(OSError):
            self._line.send(b"go")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def result(self, seconds: float) -> Any:
        """What the function returned, None if the process died before.

        :raises TimeoutError: it does neither.
        """
        self._line.settimeout(seconds)
        try:
            answer = self._line.recv(_LARGEST)
        except ConnectionError:
            answer = b""
        return pickle.loads(answer) if answer else None

    def wait(self, seconds: float) -> bool:
        """Until the process is gone; False if it is still there."""
        return bool(select.select([self._process], [], [], seconds)[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self.wait(10)
        self._line.close()
        os.close(self._process)


class Nursery:
    """A process without threads that forks on demand. Make it before this one has threads."""

    def __init__(self, prepare: Callable[[], None], settle: Callable[[], object]) -> None:
        """`prepare` runs once, in the mother of all children, `settle` in each child before its
        gate: what a fork has to do anew.
        """
        self._ours, theirs = socket.socketpair(*_PIPES)
        self._mother = os.fork()
        if self._mother == 0:
            try:
                self._ours.close()
                _end_with_parent()
                prepare()
                _rear(theirs, settle)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        theirs.close()

    def spawn(self, function: Callable[..., Any], *arguments: Any) -> Child:
        ours, theirs = socket.socketpair(*_PIPES)
        with theirs:
            message = pickle.dumps((function, arguments))
            fds = array.array("i", [theirs.fileno()])
            self._ours.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        return Child(ours)

    def run(self, function: Callable[..., Any], *arguments: Any, seconds: float = 60) -> Any:
        """What `function` returns in a child of its own."""
        with self.spawn(function, *arguments) as child:
            child.go()
            return child.result(seconds)

    def close(self) -> None:
        self._ours.close()
        os.waitpid(self._mother, 0)


def _rear(orders: socket.socket, settle: Callable[[], object]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children here
    while True:
        message, fds, _, _ = socket.recv_fds(orders, _LARGEST, 1)
        if not message:
            return
        if os.fork() == 0:
            orders.close()
            with socket.socket(fileno=fds[0]) as line:
                _live(line, message, settle)
            os._exit(0)
        os.close(fds[0])


def _live(line: socket.socket, message: bytes, settle: Callable[[], object]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _end_with_parent()
    # So that a tracer need not be our parent.
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    settle()
    line.send(b"%d" % os.getpid())
    if not line.recv(16):
        return
    try:
        function, arguments = pickle.loads(message)
        answer = function(*arguments)
    except BaseException:
        answer = {"raised": traceback.format_exc()[-2000:]}
    with contextlib.suppress(OSError):
        line.send(pickle.dumps(answer))
    sys.stdout.flush()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
