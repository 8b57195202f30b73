"""This process's part in a swarm: it reads this host's share from the backend, as it is told."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic

from imagebroker.backends.backend import Buffer, ImageSource
from imagebroker.backends.opened_source import Flow, OpenedSource
from imagebroker.exceptions import ImageBrokerError, TransferError
from imagebroker.redaction import redact
from imagebroker.swarm import wire
from imagebroker.swarm.certificates import NAME
from imagebroker.swarm.start import Start
from imagebroker.system.exhaustion import start as start_thread
from imagebroker.system.forks import Condition, Process, Thread, withhold_socket

LOG = logging.getLogger(__name__)

_BLOCK = 1024 * 1024
#: Seconds between two looks.
_MOMENT = 0.2
#: Times that one chunk is tried again, and seconds between.
_RETRIES, _PAUSE = 3, 0.5
#: What the child inherits: never what may hold a secret.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "TMPDIR", "TZ")


class Child:
    """The process that speaks with other hosts. `start` says what it does."""

    def __init__(self, start: Start) -> None:
        """:raises OSError: it cannot be started."""
        self._process = Process()
        self.start = start
        self.left: str | None = None
        here, there = socket.socketpair()
        # Not this process's own: whoever waits for the end of its output would wait for the child.
        self._errors = Path(start.spool, "errors")
        errors = os.open(self._errors, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._running = subprocess.Popen(  # noqa: S603 - of our own
                [sys.executable, "-m", "imagebroker.swarm.child", str(there.fileno())],
                pass_fds=[there.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=errors, start_new_session=True, cwd="/",
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )  # fmt: skip
        except BaseException:
            here.close()
            raise
        finally:
            there.close()
            os.close(errors)
        withhold_socket(here)
        self._socket = here
        self._lock = Condition()
        self.send(start.message)

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


class SwarmSource(ImageSource):
    """The bytes of an image in order, from this host's share and from what others send."""

    seekable = True

    def __init__(self, own: OpenedSource, child: Child, left: Callable[[str], Exception]) -> None:
        """`own`: the backend, opened by this caller. `left`: the error that says why the swarm
        was left, so that whoever reads goes on at the backend."""
        self.image = own.image
        self._own, self._child, self._left = own, child, left
        self._layout = child.start.layout
        self._spool = Path(child.start.spool)
        self._changed = Condition()
        self._whole: set[int] = set()
        self._runs: deque[list[int]] = deque()
        self._places: deque[wire.Message] = deque()
        self._why: str | None = None
        self._closed = False
        #: All that was wanted was handed out: nothing came from elsewhere.
        self.complete = False
        #: Bytes of each chunk that are being read from the backend.
        self._read: dict[int, int] = {}
        self._files: dict[int, int] = {}
        #: Descriptors that a read may still use.
        self._stale: list[int] = []
        self.served_by_backend = 0
        self._flow: Flow | None = None
        self._threads = [
            Thread(target=self._listen, name="imagebroker-swarm"),
            Thread(target=self._work, name="imagebroker-swarm-share"),
        ]
        for thread in self._threads:
            start_thread(thread)

    # -- for whoever downloads -------------------------------------------------------------------

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        position, end = start, self._layout.size if stop is None else stop
        while position < end:
            index = self._layout.index(position)
            if index < self._child.start.first:
                raise self._left("what comes before was not wanted")
            first, last = self._layout.span(index)
            there = first + self._wait_for(index, position - first)
            data = os.pread(self._file(index), min(_BLOCK, there - position, end - position),
                            position - first)  # fmt: skip
            if not data:
                raise self._left(f"chunk {index} is gone")
            position += len(data)
            yield data
            if position == last:
                self._let_go(index)
        self.complete = self._why is None and end == self._layout.size

    def _wait_for(self, index: int, offset: int) -> int:
        """Until bytes beyond `offset` are there: so many of the chunk are.

        :raises: `left`, when there is no swarm any more.
        """
        with self._changed:
            while True:
                if index in self._whole:
                    return self._layout.length(index)
                if (there := self._read.get(index, 0)) > offset:
                    return there
                if self._why is not None or self._closed:
                    raise self._left(self._why or "closed")
                self._changed.wait(_MOMENT)

    def _file(self, index: int) -> int:
        with self._changed:
            if index not in self._files:
                path = self._spool / str(index) / NAME
                self._files[index] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return self._files[index]

    def _let_go(self, index: int) -> None:
        with self._changed:
            if index in self._whole and (fd := self._files.pop(index, None)) is not None:
                os.close(fd)

    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._own.close()
        with suppress(OSError):
            self._child.send({"t": "idle"})

    def release(self) -> None:
        """After the child has ended: what is still open here."""
        for thread in self._threads:
            thread.join(5.0)
        with self._changed:
            for fd in (*self._files.values(), *self._stale):
                with suppress(OSError):
                    os.close(fd)
            self._files.clear()

    # -- what the child says ---------------------------------------------------------------------

    def _listen(self) -> None:
        try:
            for message in self._child.messages():
                with self._changed:
                    self._hear(message)
                    self._changed.notify_all()
        finally:
            with self._changed:
                if self._why is None and not self._closed:
                    self._why = f"the process of the swarm ended{self._child.last_words()}"
                self._changed.notify_all()

    def _hear(self, message: wire.Message) -> None:
        match message["t"]:
            case "read":
                self._runs.append([message["first"], message["stop"]])
            case "until":
                if self._runs:
                    self._runs[-1][1] = message["stop"]
            case "got":
                if message["i"] not in self._whole:
                    # What was read here of it so far is not where the whole is.
                    if (fd := self._files.pop(message["i"], None)) is not None:
                        self._stale.append(fd)
                    self._whole.add(message["i"])
            case "places":
                self._places.append(message)
            case "note":
                LOG.warning("%s", redact(message["text"]))
            case "trace":
                LOG.debug("swarm: %s", message["text"])
            case "leave":
                self._why = message["why"]
            case _:
                pass

    # -- what this host reads from the backend ---------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._runs or self._places or self._closed):
                    self._changed.wait(_MOMENT)
                if self._closed:
                    return
                asked = self._places.popleft() if self._places else None
                run = self._runs[0] if self._runs and asked is None else None
            try:
                if asked is not None:
                    self._look_up(asked)
                elif run is not None:
                    self._read_run(run)
            except (ImageBrokerError, OSError) as error:
                self._leave(f"the backend could not be read: {error}")
                return

    def _leave(self, why: str) -> None:
        with self._changed:
            self._why = self._why or why
            self._changed.notify_all()

    def _look_up(self, asked: wire.Message) -> None:
        """Answer with what the backend sends at a few places."""
        parts: list[str] | None
        try:
            parts = [self._bytes_at(*place).hex() for place in asked["places"]]
        except ImageBrokerError as error:
            LOG.info("%s: %s", redact(self.image.ref), error)
            parts = None
        self._child.send({"t": "bytes", "n": asked["n"], "parts": parts})

    def _bytes_at(self, offset: int, length: int) -> bytes:
        """:raises ImageBrokerError: the backend does not send them."""
        found = bytearray()
        for data in self._taken(offset, offset + length):
            found += data
        return bytes(found)

    def _read_run(self, run: list[int]) -> None:
        """Chunks one after the other, with one request as long as nobody else wants some."""
        index = run[0]
        while index < run[1] and not self._closed:
            index = self._read_from(index, run)
            with self._changed:
                run[0] = index
                if self._places and index < run[1]:
                    return  # first these: somebody waits
        with self._changed:
            self._runs.popleft()
        self._child.send({"t": "idle"})

    def _read_from(self, index: int, run: list[int]) -> int:
        """Read from this chunk on to the end of the run, or to where it was cut; the chunk to go on
        with.

        :raises ImageBrokerError: it breaks again and again.
        """
        fruitless = 0
        while True:
            try:
                return self._stored(index, run)
            except ImageBrokerError as error:
                fruitless += 1
                if not error.retryable or fruitless > _RETRIES or self._closed:
                    raise
                LOG.info("%s: reading a share again: %s", redact(self.image.ref), error)
                with self._changed:
                    index = run[0]
                    self._changed.wait(_PAUSE * fruitless)

    def _stored(self, index: int, run: list[int]) -> int:
        layout = self._layout
        start, stop = layout.span(index)[0], layout.span(run[1] - 1)[1]
        position, fd = start, self._new(index)
        try:
            for data in self._taken(start, stop):
                view = memoryview(data)
                while view:
                    last = layout.span(index)[1]
                    part = view[: last - position]
                    _write(fd, part)
                    position += len(part)
                    self.served_by_backend += len(part)
                    view = view[len(part) :]
                    with self._changed:
                        self._read[index] = position - layout.span(index)[0]
                        self._changed.notify_all()
                    if position == last:
                        os.close(fd)
                        fd = -1
                        index = run[0] = index + 1
                        with self._changed:
                            self._whole.add(index - 1)
                        self._child.send({"t": "have", "i": index - 1})
                        if index >= run[1] or self._places or self._closed:
                            return index
                        fd = self._new(index)
        finally:
            if fd >= 0:
                os.close(fd)
        return index

    def _new(self, index: int) -> int:
        path = self._spool / f"own-{index}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with self._changed:
            self._read[index] = 0
            if index not in self._whole:  # else it lies elsewhere
                if (before := self._files.pop(index, None)) is not None:
                    self._stale.append(before)
                self._files[index] = os.dup(fd)
        return fd

    def _taken(self, start: int, stop: int) -> Iterator[Buffer]:
        """What the backend sends, in order.

        :raises TransferError: nothing came for too long. :raises ImageBrokerError: of the backend.
        """
        with contextlib.ExitStack() as stack:
            flow = self._own.read(start, stop)
            stack.callback(flow.stop)
            heard = monotonic()
            while (batch := flow.take(_MOMENT)) is not None:
                if self._closed or self._why is not None:
                    raise TransferError("the swarm was left", retryable=False)
                if batch:
                    heard = monotonic()
                elif monotonic() - heard > self._child.start.patience:
                    raise TransferError("the backend is silent")
                yield from batch


def _write(fd: int, data: memoryview) -> None:
    """:raises OSError: there is no room."""
    while data:
        data = data[os.write(fd, data) :]


def new_spool(directory: Path) -> str:
    """A directory for one download; what dead processes have left is removed.

    :raises OSError: it cannot be made.
    """
    for each in directory.iterdir():
        lock = each / "lock"
        with suppress(OSError):
            fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(each, ignore_errors=True)
            finally:
                os.close(fd)
    return tempfile.mkdtemp(prefix="swarm-", dir=directory)
