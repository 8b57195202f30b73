"""What all parts of one host share: who it is, what it has, and whom it works for."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from imagebroker.swarm.chunks import Chunks
from imagebroker.swarm.clock import Clock
from imagebroker.swarm.start import Start
from imagebroker.swarm.torrents import Torrents
from imagebroker.swarm.wire import Message

#: Seconds between two looks at everything, and the most that count if it was longer.
MOMENT, _COUNTED = 0.1, 0.2


class Parent(Protocol):
    """The process that this one works for."""

    async def received(self) -> Message | None: ...

    def send(self, message: Message) -> None: ...

    async def bytes_at(self, places: list[tuple[int, int]]) -> list[bytes] | None: ...

    def answered(self, message: Message) -> None: ...


class LocalHost:
    """One host in one swarm. `port` is where others call it."""

    def __init__(self, start: Start, parent: Parent, port: int) -> None:
        """:raises OSError: libtorrent can listen nowhere."""
        self.start, self.parent, self.port = start, parent, port
        self.identity = start.identity
        #: Of its certificate.
        self.fingerprint = self.identity.fingerprint
        #: For the connections that it opens, to peers and to the rendezvous.
        self.tls = self.identity.client()
        self.id = f"{self.fingerprint[:16]}-{secrets.token_hex(8)}"
        self.clock = Clock(_COUNTED)
        self.chunks = Chunks(start.layout, start.first, Path(start.spool), self.clock)
        beside = port + len(start.ports) if start.ports else 0
        self.torrents = Torrents(start, start.libtorrent or beside)
        self._began = self._progressed_at = monotonic()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """Where others call it, as it is written."""
        own = self.start.address
        return f"[{own}]:{self.port}" if ":" in own else f"{own}:{self.port}"

    @property
    def age(self) -> float:
        """Seconds since it began."""
        return monotonic() - self._began

    # -- what it works at ------------------------------------------------------------------------

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Beside everything else; if it fails, the swarm is left."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.leave(f"{type(error).__name__}: {error}")

    def end(self) -> None:
        for task in self._tasks:
            task.cancel()

    # -- what it says to the process that started it ---------------------------------------------

    def trace(self, text: str) -> None:
        """For whoever looks for the reason of something."""
        self.parent.send({"t": "trace", "text": f"{self.age:.2f}s {text}"})

    def note(self, text: str) -> None:
        """For whoever runs the fleet."""
        self.parent.send({"t": "note", "text": text})

    def left_out(self, who: str, why: str) -> None:
        """This host is not listened to any more."""
        self.parent.send({"t": "left_out", "text": f"{who} {why}"})

    def leave(self, why: str) -> None:
        """The swarm is of no use: the backend alone is."""
        self.parent.send({"t": "leave", "why": why})

    # -- whether anything happens ----------------------------------------------------------------

    def progressed(self) -> None:
        """Bytes came, from wherever."""
        self._progressed_at = monotonic()

    @property
    def idle_for(self) -> float:
        return monotonic() - self._progressed_at
