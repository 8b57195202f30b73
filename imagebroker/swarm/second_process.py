"""The second process of this host, as the first sees it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from imagebroker.swarm import wire
from imagebroker.swarm.start import Start
from imagebroker.system.forks import Condition, Process, Thread, withhold_socket

#: What the child inherits: never what may hold a secret.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "TMPDIR", "TZ")


class Child:
    """The process that speaks with other hosts. `start` says what it does."""

    def __init__(
        self,
        start: Start,
        program: str = "imagebroker.swarm.child",
        first: wire.Message | None = None,
    ) -> None:
        """`program`: a module, which is told `first`, or else `start`.

        :raises OSError: it cannot be started.
        """
        self._process = Process()
        self.start = start
        self.left: str | None = None
        local, there = socket.socketpair()
        # Not this process's own: whoever waits for the end of its output would wait for the child.
        self._errors = Path(start.spool, "errors")
        errors = os.open(self._errors, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._running = subprocess.Popen(  # noqa: S603 - of our own
                [sys.executable, "-m", program, str(there.fileno()), start.spool],
                pass_fds=[there.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=errors, start_new_session=True, cwd="/",
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )  # fmt: skip
        except BaseException:
            local.close()
            raise
        finally:
            there.close()
            os.close(errors)
        withhold_socket(local)
        self._socket = local
        self._lock = Condition()
        self.send(first or start.message)

    def send(self, message: wire.Message) -> None:
        with self._lock, suppress(OSError):
            self._socket.sendall(wire.encoded(message))

    def messages(self) -> Iterator[wire.Message]:
        """What it says, to its end."""
        buffered = bytearray()
        while True:
            try:
                data = self._socket.recv(64 * 1024)
            except OSError:
                return
            if not data:
                return
            buffered += data
            while (end := buffered.find(b"\n")) >= 0:
                yield wire.decoded(bytes(buffered[: end + 1]))
                del buffered[: end + 1]

    def last_words(self) -> str:
        """The last line that it wrote where nobody would see it."""
        try:
            lines = self._errors.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return f": {lines[-1][:200]}" if lines else ""

    def end(self, linger: float | None) -> None:
        """Let it go: at once, or, if what it has was verified, after it has served others."""
        if not self._process.is_current:
            return
        if linger:
            self.send({"t": "confirmed", "linger": linger})
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR if linger else socket.SHUT_RDWR)
        self._socket.close()
        if linger:
            Thread(target=self._running.wait, name="imagebroker-swarm-linger").start()
            return
        try:
            self._running.wait(5.0)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()
        shutil.rmtree(self.start.spool, ignore_errors=True)
