"""A TCP proxy between a client and a server: a long way, a narrow one, or one that is cut.

    python -m benchmarks.proxy '{"port": 8080, "delay": 0.025, "window": 1048576}'

A process of its own with one thread and large blocks, so that it is not what limits. It prints its
port; for each line on standard input it prints, as JSON, the bytes handed to clients and the
connections since the line before, and begins to count, and to cut, again.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import selectors
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass

HOST = "127.0.0.1"
_BLOCK = 256 * 1024
#: Bytes for one connection at a time where all share a rate: small, so that the share is fair.
_SLICE = 16 * 1024
#: Bytes that wait in the kernel for a client: those that it never reads are counted all the same.
_SEND_BUFFER = 256 * 1024
#: Bytes under way where there is no delay.
_UNDER_WAY = 1024 * 1024


@dataclass(frozen=True)
class Way:
    """What the way to the server is like."""

    port: int
    #: Seconds from one side to the other.
    delay: float = 0.0
    #: Bytes of one connection under way: at most so many in each round trip. 0: no limit.
    window: int = 0
    #: Bytes a second to all clients together. 0: no limit.
    rate: float = 0.0
    #: How often a connection is cut within the next `size` bytes, at random.
    cuts: int = 0
    size: int = 0
    seed: int = 0


class Passage:
    """One connection: blocks wait in each direction until they are due."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.back: deque[tuple[float, memoryview]] = deque()
        self.forth: deque[tuple[float, memoryview]] = deque()
        self.under_way = 0
        self.ended = {client: False, server: False}
        self.told = {client: False, server: False}
        self.first = True
        self.closed = False


class Proxy:
    """Accepts connections until standard input ends."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.window = way.window or (1 << 40 if way.delay else _UNDER_WAY)
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server((HOST, 0), backlog=256)
        self.listener.setblocking(False)
        self.passages: dict[socket.socket, Passage] = {}
        #: When something is to be done, and for which passage; the number makes them comparable.
        self.due: list[tuple[float, int, Passage, int]] = []
        self.number = 0
        self.random = random.Random(way.seed)
        self.buffer = bytearray(_BLOCK)
        self.allowance, self.filled_at = 0.0, time.monotonic()
        self.begin()

    def begin(self) -> None:
        self.handed = self.connections = 0
        size = self.way.size
        self.cuts = deque(sorted(self.random.sample(range(1, size), self.way.cuts) if size else []))

    def serve(self) -> None:
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(sys.stdin, selectors.EVENT_READ)
        print(self.listener.getsockname()[1], flush=True)
        while True:
            for key, _ in self.selector.select(self._patience()):
                if key.fileobj is self.listener:
                    self._accept()
                elif key.fileobj is sys.stdin:
                    if not os.read(0, 100):
                        return
                    print(json.dumps({"handed": self.handed, "connections": self.connections}),
                          flush=True)  # fmt: skip
                    self.begin()
                elif (passage := self.passages.get(key.fileobj)) is not None:  # type: ignore[call-overload]
                    self._receive(passage, key.fileobj)  # type: ignore[arg-type]
            self._deliver()
            if self.way.rate:
                self._refill()

    def _patience(self) -> float | None:
        """Seconds until something is due. A shared rate is looked at every few milliseconds."""
        waits = [self.due[0][0] - time.monotonic()] if self.due else []
        if self.way.rate and self.passages:
            waits.append(0.002)
        return max(0.0, min(waits)) if waits else None

    def _accept(self) -> None:
        client, _ = self.listener.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            server = socket.create_connection((HOST, self.way.port), timeout=10)
        except OSError:
            client.close()
            return
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections += 1
        passage = Passage(client, server)
        for sock in (client, server):
            sock.setblocking(False)
            self.passages[sock] = passage
            self.selector.register(sock, selectors.EVENT_READ)

    def _receive(self, passage: Passage, source: socket.socket) -> None:
        from_server = source is passage.server
        most = self._room(passage) if from_server else _BLOCK
        if most <= 0:
            return
        try:
            count = source.recv_into(self.buffer, most)
        except BlockingIOError:
            return
        except OSError:
            self._close(passage)
            return
        if not count:
            passage.ended[source] = True
            self._watch(passage, source)
            self._later(passage, self.way.delay, 0)
            return
        block = memoryview(bytes(memoryview(self.buffer)[:count]))
        wait = self.way.delay
        if passage.first:
            # The proxy cannot delay the handshake, which takes a round trip too.
            passage.first, wait = False, 3 * wait
        (passage.back if from_server else passage.forth).append((time.monotonic() + wait, block))
        if from_server:
            passage.under_way += count
            self.allowance -= count
            self._watch(passage, source)
        self._later(passage, wait, 0)

    def _room(self, passage: Passage) -> int:
        """Bytes that may be taken from the server now."""
        room = min(self.window - passage.under_way, _BLOCK)
        if not self.way.rate:
            return room
        return min(room, _SLICE) if self.allowance > 0 else 0

    def _refill(self) -> None:
        """More may be sent in all; who waited for that is read from again."""
        now = time.monotonic()
        self.allowance += (now - self.filled_at) * self.way.rate
        self.allowance = min(self.allowance, self.way.rate * 0.01)
        self.filled_at = now
        for passage in set(self.passages.values()):
            self._watch(passage, passage.server)

    def _later(self, passage: Passage, seconds: float, freed: int) -> None:
        self.number += 1
        heapq.heappush(self.due, (time.monotonic() + seconds, self.number, passage, freed))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self.due and self.due[0][0] <= now:
            _, _, passage, freed = heapq.heappop(self.due)
            if passage.closed:
                continue
            passage.under_way -= freed
            self._pass_on(passage, passage.forth, passage.client, passage.server, now)
            self._pass_on(passage, passage.back, passage.server, passage.client, now)
            self._watch(passage, passage.server)

    def _pass_on(
        self, passage: Passage, waiting: deque[tuple[float, memoryview]],
        source: socket.socket, sink: socket.socket, now: float,
    ) -> None:  # fmt: skip
        """Send what is due as far as the other side takes it."""
        back = sink is passage.client
        while waiting and waiting[0][0] <= now and not passage.closed:
            due, block = waiting.popleft()
            piece = block[: self.cuts[0] - self.handed] if back and self.cuts else block
            try:
                sent = sink.send(piece)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._close(passage)
                return
            if back:
                self.handed += sent
                # What was sent is acknowledged as late as it came.
                self._later(passage, self.way.delay, sent)
                if self.cuts and self.handed >= self.cuts[0]:
                    self.cuts.popleft()
                    self._close(passage)
                    return
            if sent < len(block):
                waiting.appendleft((due, block[sent:]))
                if sent < len(piece):
                    self._later(passage, 0.001, 0)
                    return
        if passage.ended[source] and not waiting and not passage.told[sink]:
            passage.told[sink] = True
            try:
                sink.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it is gone
            if all(passage.told.values()):
                self._close(passage)

    def _watch(self, passage: Passage, sock: socket.socket) -> None:
        """Wait for bytes of one side while they may be taken."""
        if passage.closed:
            return
        has_room = sock is passage.client or self._room(passage) > 0
        wanted = has_room and not passage.ended[sock]
        registered = sock in self.selector.get_map()
        if wanted and not registered:
            self.selector.register(sock, selectors.EVENT_READ)
        elif registered and not wanted:
            self.selector.unregister(sock)

    def _close(self, passage: Passage) -> None:
        passage.closed = True
        for sock in (passage.client, passage.server):
            if sock in self.selector.get_map():
                self.selector.unregister(sock)
            self.passages.pop(sock, None)
            sock.close()


if __name__ == "__main__":
    Proxy(Way(**json.loads(sys.argv[1]))).serve()
