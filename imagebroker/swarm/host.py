"""One host's part in a swarm, in a process of its own.

It finds the other hosts that download the same image (`meeting.py`), lets those have it that may
(`admission.py`), says which chunks it reads from the backend (`share.py`), and passes on, by
libtorrent, what it has (`exchange.py`). Only the process that started it reads from the backend: it
has the credentials, and this one never sees them.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from time import monotonic

from imagebroker.swarm import wire
from imagebroker.swarm.admission import Admission
from imagebroker.swarm.circle import Circle
from imagebroker.swarm.exchange import Exchange
from imagebroker.swarm.here import MOMENT, Here, Parent
from imagebroker.swarm.layer import Layer
from imagebroker.swarm.meeting import PATIENCE, Meeting
from imagebroker.swarm.neighbour import Neighbour
from imagebroker.swarm.pace import Pace
from imagebroker.swarm.plan import MOST_NEIGHBOURS
from imagebroker.swarm.share import Share
from imagebroker.swarm.start import Start
from imagebroker.swarm.wire import Message

#: Seconds between two looks at how far transfers are.
_LOOK_CLOSER = 0.25
#: Seconds for which a host looks for others before it begins to read.
_LOOK_AROUND = 1.0


class Host:
    """Puts the parts together, and gives each its turn."""

    def __init__(self, start: Start, parent: Parent) -> None:
        self._start, self._parent = start, parent
        self._complete = False

    async def run(self) -> None:
        """:raises OSError: no port is free."""
        server = await self._listen()
        here = self._here
        here.trace(f"listening at {here.address}")
        try:
            here.begin(self._meeting.find())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._meeting.settled.wait(), _LOOK_AROUND)
            if not len(self._circle):
                self._share.alone()
            here.begin(self._look())
            await self._listen_to_parent()
        finally:
            server.close()
            here.end()
            self._circle.close()
            await self._meeting.leave()
            here.torrents.close()

    async def _listen(self) -> asyncio.Server:
        start = self._start
        context = start.identity.server()
        for port in start.ports or [0]:
            try:
                server = await asyncio.start_server(
                    self._called, start.address, port, ssl=context, limit=wire.LIMIT,
                    ssl_handshake_timeout=PATIENCE, backlog=256,
                )  # fmt: skip
            except OSError:
                continue
            self._compose(server.sockets[0].getsockname()[1])
            return server
        raise OSError(f"no port of {start.address} is free for the swarm")

    def _compose(self, port: int) -> None:
        self._here = Here(self._start, self._parent, port)
        self._pace = Pace(self._here.clock)
        self._circle = Circle(self._here)
        self._share = Share(self._here, self._circle)
        self._layer = Layer(self._here, self._circle)
        self._exchange = Exchange(self._here, self._circle, self._share)
        self._admission = Admission(self._here, self._circle, self._admitted)
        self._meeting = Meeting(self._here, self._circle, self._met, self._heard)

    async def _called(self, reader: StreamReader, writer: StreamWriter) -> None:
        await self._meeting.called(reader, writer)

    async def _listen_to_parent(self) -> None:
        """Until it says what comes then, or is gone."""
        while (message := await self._parent.received()) is not None:
            match message["t"]:
                case "have":
                    index = wire.whole(message, "i", self._start.layout.count)
                    self._exchange.read(index)
                case "idle":
                    self._share.ended(message["n"])
                case "wrong":
                    self._exchange.wrong(wire.whole(message, "i", self._start.layout.count))
                case "confirmed":
                    self._admission.confirmed = True
                    self._layer.confirmed()
                    await asyncio.sleep(float(message["linger"]))
                    return
                case "bytes":
                    self._parent.answered(message)
                case _:
                    return

    # -- others ----------------------------------------------------------------------------------

    def _met(self, neighbour: Neighbour) -> None:
        self._share.shorten()
        self._share.claim(neighbour)

    def _admitted(self, neighbour: Neighbour) -> None:
        self._share.claim(neighbour)
        self._layer.offer(neighbour)
        self._exchange.introduce(neighbour)

    def _heard(self, neighbour: Neighbour, message: Message) -> None:
        """:raises BrokenPeer: it is not understood."""
        match message["t"]:
            case "challenge":
                self._admission.challenged(neighbour, message)
            case "answer":
                self._admission.judge(neighbour, message)
            case "accepted":
                self._exchange.accepted(neighbour)
            case "claim":
                self._share.heard(neighbour, message)
            case "chunk":
                self._exchange.offered(neighbour, message)
            case "members":
                self._meeting.told_of(wire.addresses(message, "at", MOST_NEIGHBOURS))
            case "layer":
                self._layer.told(neighbour, message)
            case "on":
                self._exchange.listens(neighbour, message)
            case _:
                pass  # of a later version

    # -- what next -------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Again and again: what has arrived, whom to ask, and what to read next."""
        looked = 0.0
        while True:
            self._here.clock.look()
            self._exchange.collect()
            self._admission.ask()
            self._share.decide()
            if monotonic() - looked > _LOOK_CLOSER:
                looked = monotonic()
                self._watch()
            await asyncio.sleep(MOMENT)

    def _watch(self) -> None:
        """What moves, and whether it is worth while."""
        self._exchange.watch()
        self._share.watch()
        if self._complete:
            return
        if self._here.chunks.complete:
            self._complete = True
            self._parent.send({"t": "complete"})
            return
        self._note_pace()
        if self._pace.is_slow:
            self._here.leave("it is slower than the backend alone")
            self._pace = Pace(self._here.clock)
        elif self._here.quiet_for > self._start.patience:
            self._here.leave("nothing arrives")
            self._here.moved()

    def _note_pace(self) -> None:
        chunks, share = self._here.chunks, self._share
        there, read = (chunks.bytes_there(own=own) + share.grown for own in (False, True))
        part = min(share.readers / (len(self._circle) + 1), 1.0)
        self._pace.note(there, read, is_reading=share.is_reading, part=part)
