"""One host's part in a swarm, in a process of its own.

It connects to the other hosts that download the same image (`connections.py`), lets those have it
that may (`admission.py`), says which chunks it reads from the backend (`picker.py`), and passes on,
by libtorrent, what it has (`exchange.py`). Only the process that started it reads from the backend:
it has the credentials, and this one never sees them.
"""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from contextlib import suppress
from time import monotonic

from imagebroker.swarm import wire
from imagebroker.swarm.admission import Admission
from imagebroker.swarm.chunk_layer import ChunkLayer
from imagebroker.swarm.connections import HANDSHAKE_TIMEOUT, Connections
from imagebroker.swarm.exchange import Exchange
from imagebroker.swarm.local_host import MOMENT, LocalHost, Parent
from imagebroker.swarm.peer import Peer
from imagebroker.swarm.peers import Peers
from imagebroker.swarm.picker import ChunkPicker
from imagebroker.swarm.plan import MAX_PEERS
from imagebroker.swarm.start import Start
from imagebroker.swarm.throughput import Throughput
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
        local = self._local
        local.trace(f"listening at {local.address}")
        try:
            local.begin(self._connections.find())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._connections.settled.wait(), _LOOK_AROUND)
            if not len(self._peers):
                self._picker.alone()
            local.begin(self._look())
            await self._listen_to_parent()
        finally:
            server.close()
            local.end()
            self._peers.close()
            await self._connections.leave()
            local.torrents.close()

    async def _listen(self) -> asyncio.Server:
        start = self._start
        context = start.identity.server()
        for port in start.ports or [0]:
            try:
                server = await asyncio.start_server(
                    self._accept, start.address, port, ssl=context, limit=wire.LIMIT,
                    ssl_handshake_timeout=HANDSHAKE_TIMEOUT, backlog=256,
                )  # fmt: skip
            except OSError:
                continue
            self._compose(server.sockets[0].getsockname()[1])
            return server
        raise OSError(f"no port of {start.address} is free for the swarm")

    def _compose(self, port: int) -> None:
        self._local = LocalHost(self._start, self._parent, port)
        self._throughput = Throughput(self._local.clock)
        self._peers = Peers(self._local)
        self._picker = ChunkPicker(self._local, self._peers)
        self._layer = ChunkLayer(self._local, self._peers)
        self._exchange = Exchange(self._local, self._peers, self._picker)
        self._admission = Admission(self._local, self._peers, self._admitted)
        self._connections = Connections(self._local, self._peers, self._connected, self._heard)

    async def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        await self._connections.accept(reader, writer)

    async def _listen_to_parent(self) -> None:
        """Until it says what comes then, or is gone."""
        while (message := await self._parent.received()) is not None:
            match message["t"]:
                case "have":
                    index = wire.whole(message, "i", self._start.layout.count)
                    self._exchange.read(index)
                case "idle":
                    self._picker.ended(message["n"])
                case "left":
                    self._picker.stop()
                case "wrong":
                    index = wire.whole(message, "i", self._start.layout.count)
                    self._exchange.wrong(index, bytes.fromhex(message["root"]))
                case "confirmed":
                    self._admission.confirmed = True
                    self._layer.confirmed()
                    self._exchange.confirmed()
                    await asyncio.sleep(float(message["linger"]))
                    return
                case "bytes":
                    self._parent.answered(message)
                case _:
                    return

    # -- others ----------------------------------------------------------------------------------

    def _connected(self, peer: Peer) -> None:
        self._picker.limit()
        self._picker.claim(peer)

    def _admitted(self, peer: Peer) -> None:
        self._picker.claim(peer)
        self._layer.offer(peer)
        self._exchange.introduce(peer)

    def _heard(self, peer: Peer, message: Message) -> None:
        """:raises BrokenPeer: it is not understood."""
        match message["t"]:
            case "challenge":
                self._admission.challenged(peer, message)
            case "answer":
                self._admission.verify(peer, message)
            case "accepted":
                self._exchange.accepted(peer)
            case "claim":
                self._picker.heard(peer, message)
            case "chunk":
                self._exchange.offered(peer, message)
            case "members":
                self._connections.add_known(wire.addresses(message, "at", MAX_PEERS))
            case "layer":
                self._layer.told(peer, message)
            case "on":
                self._exchange.listens(peer, message)
            case _:
                pass  # of a later version

    # -- what next -------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Again and again: what has arrived, whom to ask, and what to read next."""
        looked = 0.0
        while True:
            self._local.clock.look()
            self._exchange.collect()
            self._admission.ask()
            self._picker.decide()
            if monotonic() - looked > _LOOK_CLOSER:
                looked = monotonic()
                self._watch()
            await asyncio.sleep(MOMENT)

    def _watch(self) -> None:
        """What moves, and whether it is worth while."""
        self._exchange.watch()
        self._picker.watch()
        if self._complete:
            return
        if self._local.chunks.complete:
            self._complete = True
            self._parent.send({"t": "complete"})
            return
        self._note_throughput()
        if self._throughput.is_slow:
            self._local.leave("it is slower than the backend alone")
            self._throughput = Throughput(self._local.clock)
        elif self._local.idle_for > self._start.idle_timeout:
            self._local.leave("nothing arrives")
            self._local.progressed()

    def _note_throughput(self) -> None:
        chunks, picker = self._local.chunks, self._picker
        there, read = (chunks.bytes_there(own=own) + picker.grown for own in (False, True))
        part = min(picker.readers / (len(self._peers) + 1), 1.0)
        self._throughput.note(there, read, is_reading=picker.is_reading, part=part)
