"""A proxy before a real server that sends so many bytes a second in all, and counts them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Self

from imagebroker.testing.faults.sockets import wake_and_close

#: Bytes that pass at a time. Sockets get small buffers: what a client drops must not count as sent.
_CHUNK = 16 * 1024


class Narrow:
    """Listens on 127.0.0.1; `sent` is what clients were handed, `rate` what they get together."""

    def __init__(self, target: tuple[str, int], rate: float) -> None:
        self._target, self.rate = target, rate
        self.sent = 0
        #: Connections so far.
        self.connections = 0
        #: Cleared: nothing passes.
        self.open = threading.Event()
        self.open.set()
        self._lock = threading.Lock()
        self._due = 0.0
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._spawn(self._accept)

    def _spawn(self, run: object, *args: object) -> None:
        thread = threading.Thread(target=run, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * _CHUNK)
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                self.connections += 1
                self._spawn(self._pass, client, server, False)
                self._spawn(self._pass, server, client, True)

    def _pass(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(_CHUNK):
                if counted:
                    self._wait(len(data))
                    self.open.wait()
                sink.sendall(data)
        except OSError:
            pass  # one side is gone: so is the other
        finally:
            wake_and_close(source)
            wake_and_close(sink)

    def _wait(self, size: int) -> None:
        with self._lock:
            self.sent += size
            now = time.monotonic()
            self._due = max(self._due, now) + size / self.rate
            pause = self._due - now
        time.sleep(pause)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.open.set()
        for each in [self._listener, *self._sockets]:
            wake_and_close(each)
        for thread in self._threads:
            thread.join(5)
