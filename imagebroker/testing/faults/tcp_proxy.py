"""A TCP proxy that puts faults between a client and a real server."""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from imagebroker.testing.faults.sockets import SEND_TIMEOUT, drain, reset, wake_and_close

HOST = "127.0.0.1"
CHUNK = 64 * 1024
#: First bytes of a client that are kept, to tell what is spoken there.
HEAD = 8192
#: Seconds for what takes a moment, on the busiest machine.
_LONG = 60.0

Send = Callable[[bytes], None]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a connection; the default is nothing.

    `cut_after`, `stall_after` and `corrupt_at` count the bytes of the response (what the server
    sends); with `upload` those of the request. Exactly so many are passed on. The other direction
    goes on during a stall.
    """

    #: Close the connection to the client after so many bytes.
    cut_after: int | None = None
    #: Cut with RST instead of FIN.
    reset: bool = False
    #: Pass on nothing more after so many bytes, and keep the connection open.
    stall_after: int | None = None
    #: Turn one bit of the byte at this offset.
    corrupt_at: int | None = None
    upload: bool = False
    #: Bytes per second, in each direction.
    rate: float | None = None
    #: Seconds from one side to the other. The first bytes take a round trip more, as after a real
    #: handshake, which the proxy itself cannot delay.
    delay: float = 0
    #: Answer the connection with RST at once. For a closed port see
    #: `TcpProxy.refuse`.
    refuse: bool = False


NO_FAULT = Fault()


@dataclass
class Passage:
    """One connection through the proxy, and the bytes that were passed on."""

    index: int
    fault: Fault
    client: socket.socket
    server: socket.socket | None = None
    #: From the client to the server.
    sent: int = 0
    #: From the server to the client.
    received: int = 0
    #: The first bytes from the client.
    first: bytes = b""
    #: Set when the connection is over, or the proxy ends: what a stall waits for.
    over: threading.Event = field(default_factory=threading.Event)
    #: Set when the fault has happened.
    struck: threading.Event = field(default_factory=threading.Event)
    #: The server's side was closed on purpose; the client's is being ended in its own way.
    _cut: bool = False
    #: A thread that notices the beginning of a reset must not send a FIN before its end.
    _closing: threading.Lock = field(default_factory=threading.Lock)

    def close(self) -> None:
        self.over.set()
        with self._closing:
            wake_and_close(self.client)
            if self.server is not None:
                wake_and_close(self.server)

    def pass_on_end(self, sink: socket.socket) -> None:
        """Tell one side that the other has nothing more to say."""
        with self._closing:
            if not self._cut:
                sink.shutdown(socket.SHUT_WR)

    def pass_on_error(self) -> None:
        """Reset both sides, unless it is our own cut that the other thread has noticed."""
        with self._closing:
            if not self._cut and not self.over.is_set():
                self.over.set()
                reset(self.client)
                if self.server is not None:
                    reset(self.server)

    def cut(self, with_reset: bool) -> None:
        """End the connection from our side; the client has all that was sent before."""
        self._cut = True
        if self.server is not None:
            wake_and_close(self.server)
        if with_reset:
            drain(self.client)
        with self._closing:
            if with_reset:
                reset(self.client)
            else:
                # Not close: that sends RST where bytes of the client are still unread.
                with contextlib.suppress(OSError):
                    self.client.shutdown(socket.SHUT_WR)


class Wires:
    """Connections that pass through here with `fault` or, by number from 0, `fault_for[k]`.

    Both may be changed at any time; a connection keeps what it had when it began.
    """

    def __init__(self, fault: Fault = NO_FAULT, *, only: int | None = None) -> None:
        """`only`: the number of the one connection that has the fault."""
        self.fault = fault if only is None else NO_FAULT
        self.fault_for: dict[int, Fault] = {} if only is None else {only: fault}
        self.passages: list[Passage] = []
        self._threads: list[threading.Thread] = []
        self._ended = False

    @property
    def connections(self) -> int:
        return len(self.passages)

    @property
    def sent(self) -> int:
        """Bytes passed on to the server."""
        return sum(each.sent for each in self.passages)

    @property
    def received(self) -> int:
        """Bytes passed on to clients."""
        return sum(each.received for each in self.passages)

    def cut_all(self, *, reset: bool = False) -> None:
        """Cut all open connections now."""
        for passage in [*self.passages]:
            passage.cut(reset)

    def join(self, client: socket.socket, dial: Callable[[], socket.socket]) -> Passage:
        """Pass on what `client` and the server that `dial` connects to say to each other."""
        index = len(self.passages)
        passage = Passage(index, self.fault_for.get(index, self.fault), client)
        self.passages.append(passage)
        if self._ended:
            passage.close()
        elif passage.fault.refuse:
            reset(client)
            passage.over.set()
        else:
            self._spawn(self._serve, passage, dial)
        return passage

    def close(self) -> None:
        """End all connections, and the threads behind them."""
        self._ended = True
        for passage in [*self.passages]:
            passage.close()
        for thread in [*self._threads]:
            thread.join(SEND_TIMEOUT)

    def _spawn(self, target: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads = [*(each for each in self._threads if each.is_alive()), thread]
        thread.start()
        return thread

    def _serve(self, passage: Passage, dial: Callable[[], socket.socket]) -> None:
        try:
            server = passage.server = dial()
        except OSError:
            reset(passage.client)
            return
        if self._ended:
            passage.close()
            return
        with contextlib.suppress(OSError):  # closed meanwhile by `close` or `cut_all`
            server.settimeout(None)
            for side in (server, passage.client):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._relay(passage, server)
        passage.close()

    def _relay(self, passage: Passage, server: socket.socket) -> None:
        """Pass on what both sides say, until both have ended."""
        uploading = self._spawn(self._pump, passage, passage.client, server)
        self._pump(passage, server, passage.client)
        uploading.join()

    def _pump(self, passage: Passage, source: socket.socket, sink: socket.socket) -> None:
        upload = source is passage.client
        fault = passage.fault
        limit = _limit(fault) if upload == fault.upload else None
        try:
            with _delayed(fault.delay, sink, handshake=upload) as send:
                done = self._copy(passage, source, send, limit)
            if limit is not None and done >= limit:
                _fail(passage)
            else:
                passage.pass_on_end(sink)
        except OSError:
            passage.pass_on_error()

    def _copy(
        self,
        passage: Passage,
        source: socket.socket,
        send: Send,
        limit: int | None,
    ) -> int:
        """Pass on at most `limit` bytes; return how many."""
        pace = _Pace(passage.fault.rate)
        upload = source is passage.client
        wrong = passage.fault.corrupt_at if upload == passage.fault.upload else None
        done = 0
        while limit is None or done < limit:
            size = pace.chunk if limit is None else min(pace.chunk, limit - done)
            data = source.recv(size)
            if not data:
                break
            if wrong is not None and done <= wrong < done + len(data):
                passage.struck.set()
                data = _turned(data, wrong - done)
            pace.wait(len(data), passage.over)
            if upload and len(passage.first) < HEAD:
                passage.first += data[: HEAD - len(passage.first)]
            send(data)
            done += len(data)
            if upload:
                passage.sent += len(data)
            else:
                passage.received += len(data)
        return done


class TcpProxy(Wires):
    """Listens on a port of this host, and passes connections on to a server."""

    def __init__(
        self,
        target_host: str,
        target_port: int,
        fault: Fault = NO_FAULT,
        *,
        only: int | None = None,
    ) -> None:
        """`only`: the number of the one connection that has the fault."""
        Wires.__init__(self, fault, only=only)  # not super(): see HttpProxy
        self.target = target_host, target_port
        self._listener = _bound(0)
        self.host = HOST
        self.port: int = self._listener.getsockname()[1]
        self._marks: dict[object, threading.Event] = {}

    def refuse(self) -> None:
        """Stop listening: new connections get ECONNREFUSED. Open ones go on."""
        wake_and_close(self._listener)
        self._listener = _bound(self.port)  # bound, not listening: keeps the port reserved

    def listen(self) -> None:
        """Accept again after `refuse`."""
        self._listener.listen(128)
        self._spawn(self._accept, self._listener)

    def catch_up(self) -> None:
        """Until every connection that was made before is among `passages`.

        One whose client is gone already may still wait to be accepted. The kernel hands them out
        in the order in which they were made, so the last one is made here.
        """
        with socket.socket() as mark:
            mark.bind((HOST, 0))
            address, seen = mark.getsockname(), threading.Event()
            self._marks[address] = seen
            try:
                mark.connect((self.host, self.port))
                seen.wait(_LONG)
            except ConnectionRefusedError:
                pass  # see `refuse`: nothing waits
            finally:
                self._marks.pop(address, None)

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended = True
        wake_and_close(self._listener)
        self.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, address = listener.accept()
            except OSError:
                return
            mark = self._marks.pop(address, None)
            if mark is not None:
                client.close()
                mark.set()
                continue
            self.join(client, lambda: socket.create_connection(self.target, SEND_TIMEOUT))


def _bound(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((HOST, port))
    return listener


def _turned(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _limit(fault: Fault) -> int | None:
    limits = [each for each in (fault.cut_after, fault.stall_after) if each is not None]
    return min(limits, default=None)


def _fail(passage: Passage) -> None:
    """Stall or cut, now that all bytes before that were passed on."""
    fault = passage.fault
    passage.struck.set()
    if fault.cut_after is None or fault.cut_after != _limit(fault):
        _wait_for_end(passage, float("inf"))
    else:
        passage.cut(fault.reset)
        _wait_for_end(passage, SEND_TIMEOUT)
    passage.close()


def _wait_for_end(passage: Passage, seconds: float) -> None:
    """Wait until the client closes, without reading what it sent before that."""
    deadline = time.monotonic() + seconds
    poll = select.poll()
    try:
        poll.register(passage.client, select.POLLRDHUP)
    except (OSError, ValueError):
        return  # closed on our side
    while not passage.over.is_set() and time.monotonic() < deadline:
        if poll.poll(20):
            return


class _Pace:
    """Spreads bytes over time."""

    def __init__(self, rate: float | None) -> None:
        self.chunk = CHUNK if rate is None else max(1, min(CHUNK, int(rate / 20)))
        self._rate = rate
        self._due = time.monotonic()

    def wait(self, count: int, over: threading.Event) -> None:
        if self._rate is not None:
            now = time.monotonic()
            # From now, not from the last time: a pause earns no right to a burst.
            self._due = max(self._due, now) + count / self._rate
            over.wait(self._due - now)


@contextlib.contextmanager
def _delayed(seconds: float, sink: socket.socket, *, handshake: bool) -> Iterator[Send]:
    """Give a function that sends to `sink` later; at the end, wait until all is sent."""
    if not seconds:
        yield sink.sendall
        return
    # Bounded, so that a slow sink slows the source: 64 MiB on their way at most.
    pipe: queue.Queue[tuple[float, bytes]] = queue.Queue(1024)
    opened = time.monotonic() + (3 * seconds if handshake else 0)
    line = threading.Thread(target=_deliver, args=(pipe, sink), daemon=True)
    line.start()

    def send(data: bytes) -> None:
        if sink.fileno() == -1:
            raise BrokenPipeError("the other side went away")
        pipe.put((max(opened, time.monotonic() + seconds), data))

    try:
        yield send
    finally:
        pipe.put((0, b""))
        line.join()


def _deliver(pipe: queue.Queue[tuple[float, bytes]], sink: socket.socket) -> None:
    broken = False
    while (item := pipe.get())[1]:
        due, data = item
        if broken:
            continue
        time.sleep(max(0, due - time.monotonic()))
        try:
            sink.sendall(data)
        except OSError:
            # Drains the pipe anyway, so that its writer does not block forever.
            broken = True
            wake_and_close(sink)
