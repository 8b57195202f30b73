"""A TCP server that does what a function says: the base for servers that misbehave."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from imagebroker.testing.faults.sockets import reset, wake_and_close
from tests.bounds import HANGS
from tests.servers.process import HOST


class Connection(socket.socket):
    """A socket that remembers what it received."""

    _received: bytearray

    @property
    def received(self) -> bytes:
        return bytes(self._memory())

    def _memory(self) -> bytearray:
        # Not in __init__: ssl makes its sockets without calling ours.
        try:
            return self._received
        except AttributeError:
            self._received = bytearray()
            return self._received

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        data = super().recv(bufsize, flags)
        if not flags & socket.MSG_PEEK:
            self._memory().extend(data)
        return data

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        view = memoryview(buffer).cast("B")
        count = super().recv_into(buffer, nbytes or len(view), flags)
        if not flags & socket.MSG_PEEK:
            self._memory().extend(view[:count])
        return count

    def read_head(self, end: bytes = b"\r\n\r\n") -> bytes:
        """Return everything up to and including ``end``; less only if the client ended first.

        Reads single bytes, so that what follows (a body) is still there for ``recv``.
        """
        head = bytearray()
        while not head.endswith(end) and (byte := self.recv(1)):
            head += byte
        return bytes(head)

    def read_exactly(self, count: int) -> bytes:
        """Return so many bytes; fewer only if the client ended first."""
        data = bytearray()
        while len(data) < count and (piece := self.recv(min(count - len(data), 65536))):
            data += piece
        return bytes(data)

    def send_slowly(self, data: bytes, seconds: float, piece: int = 1) -> None:
        """Send ``piece`` bytes every so many seconds."""
        for start in range(0, len(data), piece):
            self.sendall(data[start : start + piece])
            time.sleep(seconds)

    def reset(self) -> None:
        """Close with RST instead of FIN. What the kernel has not sent yet is lost."""
        reset(self)

    def wait_for_close(self, timeout: float | None = None) -> bool:
        """Read until the client closes (True) or the time is up (False)."""
        self.settimeout(timeout)
        try:
            while self.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def finish(self) -> None:
        """End our side and wait a moment for the client to end its own.

        Closing while unread data is there would send RST, and might take our last bytes with it.
        """
        self.shutdown(socket.SHUT_WR)
        self.wait_for_close(2)


class TlsConnection(Connection, ssl.SSLSocket):  # type: ignore[misc]  # buflen, bufsize
    """The same above TLS; ``received`` is the plain text."""

    def finish(self) -> None:
        # Says goodbye at the level of TLS too, without which clients report a cut.
        self.settimeout(2)
        try:
            self.unwrap()
        except ValueError as error:  # the server ended, and shut this connection down
            raise ConnectionAbortedError(str(error)) from error


Script = Callable[[Connection, int], None]


class RawServer:
    """Hands each accepted connection, with its number from 0, to ``script`` in a thread.

    A connection is closed (FIN) when its script returns, unless the script closed or reset it. A
    socket error in a script means that the client went away and is ignored; any other exception is
    raised at the end of the ``with`` block. Everything is closed there, whatever scripts wait for.
    """

    def __init__(
        self,
        script: Script,
        *,
        tls: ssl.SSLContext | None = None,
        host: str = HOST,
        port: int = 0,
    ) -> None:
        """``tls``: a server context, with a certificate loaded. ``host``: a loopback address."""
        self.script = script
        self.connections: list[Connection] = []
        self.errors: list[Exception] = []
        self._tls = tls
        if tls is not None:
            tls.sslsocket_class = TlsConnection
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._changed = threading.Condition()
        self._listener = socket.create_server((host, port), backlog=128)
        self.host = host
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    @property
    def received(self) -> list[bytes]:
        """What came in, one item per connection."""
        return [each.received for each in self.connections]

    @property
    def closing(self) -> threading.Event:
        """Set when the server ends: what a script waits on to stall for ever."""
        return self._closing

    def wait_for_connections(self, count: int, timeout: float = HANGS) -> None:
        """Return when so many connections were accepted; raise AssertionError otherwise."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.connections) >= count, timeout):
                raise AssertionError(f"{len(self.connections)} of {count} connections came")

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        wake_and_close(self._listener)
        for connection in [*self.connections]:
            wake_and_close(connection)
        for thread in [*self._threads]:
            thread.join(5)
        if self.errors and error is None:
            raise self.errors[0]

    def _spawn(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        for index in range(1 << 31):
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            try:
                connection = self._wrap(accepted)
            except OSError:  # TLS looks at the peer, which may have reset the connection already
                accepted.close()
                continue
            with self._changed:
                self.connections.append(connection)
                self._changed.notify_all()
            if self._closing.is_set():
                connection.close()
                return
            self._spawn(self._serve, connection, index)

    def _wrap(self, accepted: socket.socket) -> Connection:
        if self._tls is None:
            return Connection(fileno=accepted.detach())
        # The handshake comes later, in the connection's thread: a slow client holds up nobody.
        wrapped = self._tls.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
        assert isinstance(wrapped, TlsConnection)
        return wrapped

    def _serve(self, connection: Connection, index: int) -> None:
        try:
            with connection:
                if isinstance(connection, TlsConnection):
                    connection.do_handshake()
                self.script(connection, index)
                if connection.fileno() != -1:
                    connection.finish()
        except OSError:
            pass
        except Exception as error:
            self.errors.append(error)
