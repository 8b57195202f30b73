"""What this host reads from the backend for the swarm: its share, and bytes for proofs."""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from typing import NamedTuple

from imagebroker.backends.backend import Buffer
from imagebroker.backends.opened_source import Flow, OpenedSource
from imagebroker.exceptions import ImageBrokerError, TransferError
from imagebroker.redaction import redact
from imagebroker.swarm import wire
from imagebroker.swarm.spool import Spool
from imagebroker.system.exhaustion import start as start_thread
from imagebroker.system.exhaustion import started
from imagebroker.system.forks import Thread

LOG = logging.getLogger(__name__)

#: Seconds between two looks.
_MOMENT = 0.2
#: Requests for bytes of proofs at once. Each waits behind what the backend sends to all hosts.
_PROOFS = 4
#: Times that one chunk is tried again, and seconds between.
_RETRIES, _PAUSE = 3, 0.5


class _Run:
    """Chunks to read: from `first` up to `stop`, which may come nearer."""

    def __init__(self, number: int, first: int, stop: int) -> None:
        self.number, self.first, self.stop = number, first, stop


class _Stretch(NamedTuple):
    """Bytes that one request asks for, and the chunk with the first of them."""

    chunk: int
    start: int
    stop: int


class BackendReader:
    """Reads as the second process says: it knows what others read."""

    def __init__(
        self,
        own: OpenedSource,
        spool: Spool,
        send: Callable[[wire.Message], None],
        failed: Callable[[str], None],
        idle_timeout: float,
        limit: int = 0,
    ) -> None:
        """:param own: the backend. :param send: tells the second process something.
        :param failed: hears why the backend cannot be read. :param idle_timeout: seconds of
        silence. :param limit: bytes of the share a second; 0: as many as come.
        """
        self._own, self._spool, self._send, self._failed = own, spool, send, failed
        self._idle_timeout, self._limit = idle_timeout, limit
        self._runs: deque[_Run] = deque()
        self._places: deque[wire.Message] = deque()
        self._closed = False
        #: Bytes for proofs are read beside the share where the backend takes several requests.
        self._beside = min(own.parallel_reads - 1, _PROOFS)
        #: Threads that read them: none waits, because all that wait are woken for every block.
        self._answering = 0
        self._threads: list[Thread] = []

    def begin(self, first: int, stop: int) -> None:
        """With these chunks, before anybody has said anything."""
        self._runs.append(_Run(0, first, stop))
        thread = Thread(target=self._work, name="imagebroker-swarm-share")
        self._threads.append(thread)
        start_thread(thread)

    # -- what the second process says ------------------------------------------------------------

    def hear(self, message: wire.Message) -> None:
        with self._spool.changed:
            match message["t"]:
                case "read":
                    self._runs.append(_Run(message["n"], message["first"], message["stop"]))
                case "until":  # the rest is read elsewhere
                    for run in self._runs:
                        run.stop = min(run.stop, message["stop"])
                case "stop":  # at once
                    for run in self._runs:
                        run.stop = 0
                    self._runs.clear()
                case "places":
                    self._places.append(message)
                    self._look_up_beside()
                case _:
                    return
            self._spool.changed.notify_all()

    def close(self) -> None:
        with self._spool.changed:
            self._closed = True
            self._spool.changed.notify_all()

    def join(self, seconds: float) -> None:
        for thread in self._threads:
            thread.join(seconds)

    # -- work ------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._spool.changed:
                while not (self._runs or self._waits or self._closed):
                    self._spool.changed.wait(_MOMENT)
                if self._closed:
                    return
                asked = self._places.popleft() if self._waits else None
                run = self._runs[0] if asked is None else None
            try:
                if asked is not None:
                    self._look_up(asked)
                elif run is not None:
                    self._read_run(run)
            except (ImageBrokerError, OSError) as error:
                self._failed(f"the backend could not be read: {error}")
                return

    @property
    def _waits(self) -> bool:
        """Somebody waits for bytes, and no other thread reads them."""
        return bool(self._places) and not self._beside

    def _look_up_beside(self) -> None:
        if self._answering < self._beside:
            thread = started(self._answer, "imagebroker-swarm-proofs")
            if thread is not None:
                self._answering += 1
                self._threads = [*(each for each in self._threads if each.is_alive()), thread]

    def _answer(self) -> None:
        """Until nobody waits for bytes."""
        while True:
            with self._spool.changed:
                if self._closed or not self._places:
                    self._answering -= 1
                    return
                asked = self._places.popleft()
            self._look_up(asked)

    def _look_up(self, asked: wire.Message) -> None:
        """Answer with what the backend sends at a few places."""
        parts: list[str] | None
        try:
            parts = [self._bytes_at(*place).hex() for place in asked["places"]]
        except ImageBrokerError as error:
            LOG.info("%s: %s", redact(self._own.image.ref), error)
            parts = None
        self._send({"t": "bytes", "n": asked["n"], "parts": parts})

    def _bytes_at(self, offset: int, length: int) -> bytes:
        """:raises ImageBrokerError: the backend does not send them."""
        found = bytearray()
        for data in self._taken(offset, offset + length):
            found += data
        return bytes(found)

    # -- the share -------------------------------------------------------------------------------

    def _read_run(self, run: _Run) -> None:
        """Chunks one after the other, with as few requests as can be."""
        fruitless = 0
        while (stretch := self._next(run)) is not None and not self._closed:
            try:
                self._store(stretch, run)
                fruitless = 0
            except ImageBrokerError as error:
                fruitless += 1
                if not error.retryable or fruitless > _RETRIES or self._closed:
                    raise
                LOG.info("%s: reading a share again: %s", redact(self._own.image.ref), error)
                with self._spool.changed:
                    self._spool.changed.wait(_PAUSE * fruitless)
            if self._waits and not self._closed:
                return  # first these
        with self._spool.changed:
            if self._runs and self._runs[0] is run:
                self._runs.popleft()
        self._send({"t": "idle", "n": run.number})

    def _next(self, run: _Run) -> _Stretch | None:
        """What is missing of a run, up to what is there already."""
        spool, layout = self._spool, self._spool.layout
        with spool.changed:
            index = run.first
            while index < run.stop and spool.has(index):
                index += 1
            run.first = index
            if index >= run.stop:
                return None
            last = index + 1
            while last < run.stop and not spool.there(last):
                last += 1
            return _Stretch(
                index, layout.span(index)[0] + spool.there(index), layout.span(last - 1)[1]
            )

    def _store(self, stretch: _Stretch, run: _Run) -> None:
        """:raises ImageBrokerError: it breaks. :raises OSError: there is no room."""
        spool, index, position = self._spool, stretch.chunk, stretch.start
        fd = spool.begun(index)
        try:
            for data in self._paced(self._taken(stretch.start, stretch.stop)):
                view = memoryview(data)
                while view:
                    if index >= run.stop or self._closed:
                        return
                    last = spool.layout.span(index)[1]
                    part, view = view[: last - position], view[last - position :]
                    position += len(part)
                    if not spool.append(index, fd, part):
                        continue
                    os.close(fd)
                    fd = -1
                    self._send({"t": "have", "i": index})
                    index = run.first = index + 1
                    if index >= run.stop or position == stretch.stop or self._waits:
                        return
                    fd = spool.begun(index)
        finally:
            if fd >= 0:
                os.close(fd)

    def _paced(self, chunks: Iterator[Buffer]) -> Iterator[Buffer]:
        """The same, no faster than the limit of the share."""
        began, taken = monotonic(), 0
        for data in chunks:
            taken += len(data)
            ahead = taken / self._limit - (monotonic() - began) if self._limit else 0.0
            if ahead > 0:
                with self._spool.changed:
                    self._spool.changed.wait_for(lambda: self._closed, ahead)
            yield data

    def _taken(self, start: int, stop: int) -> Iterator[Buffer]:
        return read_range(self._own, start, stop, self._idle_timeout, lambda: self._closed)


def read_range(
    own: OpenedSource, start: int, stop: int, idle_timeout: float, is_left: Callable[[], bool]
) -> Iterator[Buffer]:
    """What the backend sends, in order.

    :raises TransferError: nothing came for too long, or the swarm was left. :raises
        ImageBrokerError: of the backend.
    """
    with contextlib.ExitStack() as stack:
        flow: Flow = own.read(start, stop)
        stack.callback(flow.stop)
        heard = monotonic()
        while (batch := flow.take(_MOMENT)) is not None:
            if is_left():
                raise TransferError("the swarm was left", retryable=False)
            if batch:
                heard = monotonic()
            elif monotonic() - heard > idle_timeout:
                raise TransferError("the backend is silent")
            yield from batch
