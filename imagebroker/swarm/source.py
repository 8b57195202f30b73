"""The bytes of an image in order, from this host's share and from what other hosts send."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from imagebroker.backends.backend import Buffer, ImageSource
from imagebroker.backends.opened_source import OpenedSource
from imagebroker.redaction import redact
from imagebroker.swarm import wire
from imagebroker.swarm.backend_reader import BackendReader
from imagebroker.swarm.repair import Announced, RepairedSource
from imagebroker.swarm.second_process import Child
from imagebroker.swarm.spool import Spool
from imagebroker.system.exhaustion import start as start_thread
from imagebroker.system.forks import Thread

LOG = logging.getLogger(__name__)

_BLOCK = 1024 * 1024
#: Seconds between two looks.
_MOMENT = 0.2


class SwarmSource(ImageSource):
    """Begins to read from the backend at once, and takes from others what they have."""

    seekable = True

    def __init__(self, own: OpenedSource, child: Child, left: Callable[[str], Exception]) -> None:
        """`own`: the backend, opened by this caller. `left`: the error that says why the swarm
        was left, so that whoever reads goes on at the backend."""
        self.image = own.image
        self._own, self._child, self._left = own, child, left
        start = child.start
        self._layout = start.layout
        self._spool = Spool(self._layout, Path(start.spool))
        self._why: str | None = None
        self._closed = False
        #: All that was wanted was handed out: nothing came from elsewhere.
        self.complete = False
        #: What was told of each chunk that others sent.
        self._announced: dict[int, Announced] = {}
        #: Hosts that are not listened to any more, and why.
        self.left_out: list[str] = []
        self._reading = BackendReader(
            own, self._spool, child.send, self._leave, start.idle_timeout, start.backend_limit
        )
        self._listener = Thread(target=self._listen, name="imagebroker-swarm")
        self._reading.begin(start.opening, self._layout.count)
        start_thread(self._listener)

    # -- for whoever downloads -------------------------------------------------------------------

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        position, end = start, self._layout.size if stop is None else stop
        while position < end:
            index = self._layout.index(position)
            if index < self._child.start.first:
                raise self._left("what comes before was not wanted")
            first, last = self._layout.span(index)
            there = first + self._spool.wait_for(index, position - first, self._look, _MOMENT)
            most = min(_BLOCK, there - position, end - position)
            data = self._spool.read(index, position - first, most)
            if not data:
                raise self._left(f"chunk {index} is gone")
            position += len(data)
            yield data
            if position == last:
                self._spool.release(index)
        self.complete = self._why is None and end == self._layout.size

    def _look(self) -> None:
        """:raises: `left`, when there is no swarm any more."""
        if self._why is not None or self._closed:
            raise self._left(self._why or "closed")

    def close(self) -> None:
        with self._spool.changed:
            if self._closed:
                return
            self._closed = True
        self._reading.close()
        self._own.close()
        with suppress(OSError):
            self._child.send({"t": "idle", "n": -1})

    @property
    def is_repairable(self) -> bool:
        """Some of it came from others: the rest is read from the backend once more, at most."""
        return bool(self._announced)

    def repaired(self, own: OpenedSource, digest: tuple[str, str]) -> RepairedSource:
        """The same bytes once more, those of other hosts held to the backend; after `close`."""

        def lied(index: int, told: Announced) -> None:
            if told.own:
                self._exclude(f"{told.by} has other bytes in chunk {index} than the backend")
            else:
                who = redact(told.by)
                LOG.info("swarm: chunk %d is wrong, and %s has passed it on", index, who)
            self._child.send({"t": "wrong", "i": index, "root": told.root.hex()})

        idle_timeout = self._child.start.idle_timeout
        return RepairedSource(own, self._spool, self._announced, digest, lied, idle_timeout)

    def release(self) -> None:
        """After the child has ended: what is still open here."""
        self._listener.join(5.0)
        self._reading.join(5.0)
        self._spool.close()

    # -- what the child says ---------------------------------------------------------------------

    def _listen(self) -> None:
        try:
            for message in self._child.messages():
                self._hear(message)
        finally:
            if not self._closed:
                self._leave(f"the process of the swarm ended{self._child.last_words()}")

    def _hear(self, message: wire.Message) -> None:
        match message["t"]:
            case "got":
                self._announced[message["i"]] = Announced(
                    message["by"], message["own"], bytes.fromhex(message["root"])
                )
                self._spool.arrived(message["i"], message["folder"])
            case "note":
                LOG.warning("swarm: %s", redact(message["text"]))
            case "left_out":
                self._exclude(message["text"])
            case "trace":
                LOG.debug("swarm: %s", message["text"])
            case "leave":
                self._leave(message["why"])
            case _:
                self._reading.hear(message)

    def _exclude(self, who_and_why: str) -> None:
        text = redact(who_and_why)
        LOG.warning("swarm: %s; left out", text)
        self.left_out.append(text)

    def _leave(self, why: str) -> None:
        with self._spool.changed:
            self._why = self._why or why
            self._spool.changed.notify_all()
        self._reading.close()
        self._child.send({"t": "left"})
