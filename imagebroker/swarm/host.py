"""One host's part in a swarm, in a process of its own.

It finds the other hosts that download the same image, says which chunks it reads from the backend,
and passes on, by libtorrent, what it has. Only the process that started it reads from the backend:
it has the credentials, and this one never sees them.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from asyncio import StreamReader, StreamWriter
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from ssl import SSLObject
from time import monotonic
from typing import TYPE_CHECKING, Any

from imagebroker.swarm import proof, wire
from imagebroker.swarm.certificates import NAME, fingerprint, is_of_fleet
from imagebroker.swarm.chunks import Chunks
from imagebroker.swarm.neighbour import Hello, Neighbour, places_of
from imagebroker.swarm.plan import Deal, window
from imagebroker.swarm.rendezvous import REMEMBERED, Unreachable, meet
from imagebroker.swarm.start import Start
from imagebroker.swarm.torrents import Torrents
from imagebroker.swarm.wire import BrokenPeer, Message

if TYPE_CHECKING:
    from imagebroker.swarm.child import Parent

#: Seconds between two looks at everything.
_MOMENT = 0.05
#: Seconds for which a host looks for others before it begins to read.
_LOOK_AROUND = 1.0
#: Seconds between two calls of members that did not answer.
_AGAIN = 3.0
#: The same for a host that has just come, and seconds for which it has.
_SOON, _YOUNG = 0.3, 3.0
#: Seconds within which a connection and a greeting must be there.
_PATIENCE = 5.0
#: Seconds within which a host has to prove that it may read the image.
_PROOF = 20.0
#: Seconds after which a chunk that another host claims, or that does not arrive, is read here.
_SLOW = 6.0
#: Seconds between two looks at how far transfers are, and after which a claim is repeated.
_LOOK_CLOSER, _CLAIM_AGAIN = 0.25, 2.0
#: Seconds after which hosts that have a chunk are called again for it.
_QUIET = 1.5
#: Hosts that one speaks with.
_MOST_NEIGHBOURS = 64
#: Chunks that a host may say it has, and not send.
_MOST_OWED = 2
#: Of so many chunks that came from another host, one is compared with the backend; a host's first
#: one always is.
_AUDITED = 8


class Host:
    """What one host knows, and decides."""

    def __init__(self, start: Start, parent: Parent) -> None:
        self.start, self._parent = start, parent
        self._identity = start.identity
        self._own = self._identity.fingerprint
        self.id = f"{self._own[:16]}-{secrets.token_hex(8)}"
        self._neighbours: dict[str, Neighbour] = {}
        self._began = monotonic()
        #: Certificates of hosts that have lied, or could not prove anything.
        self._banned: set[str] = set()
        self._chunks = Chunks(start.layout, start.first, Path(start.spool))
        self._tasks: set[asyncio.Task[None]] = set()
        self._calling: set[tuple[str, int]] = set()
        self._addresses: set[tuple[str, int]] = set()
        self._self_addresses: set[tuple[str, int]] = set()
        self._settled = asyncio.Event()
        #: What this host reads from the backend: from the first chunk up to the second.
        self._reading: tuple[int, int] | None = None
        #: Chunks that were read here, and are being hashed.
        self._taking: set[int] = set()
        self._idle_since = monotonic()
        self._delay = 0.0
        self._audited: set[str] = set()
        self._progress = monotonic()
        self._ended = asyncio.Event()
        self._port = 0
        self._complete = self._confirmed = False
        self._claimed_at, self._grown = 0.0, 0

    # -- life ------------------------------------------------------------------------------------

    async def run(self) -> None:
        server = await self._listen()
        try:
            self._begin(self._find())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._settled.wait(), _LOOK_AROUND)
            self._begin(self._look())
            await self._listen_to_parent()
        finally:
            self._ended.set()
            server.close()
            for task in self._tasks:
                task.cancel()
            for each in self._neighbours.values():
                each.close()
            await self._leave()
            self._torrents.close()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._parent.send({"t": "leave", "why": f"{type(error).__name__}: {error}"})

    async def _listen(self) -> asyncio.Server:
        """:raises OSError: no port is free."""
        context = self._identity.server()
        for port in self.start.ports or [0]:
            try:
                server = await asyncio.start_server(
                    self._called, self.start.address, port, ssl=context, limit=wire.LIMIT,
                    ssl_handshake_timeout=_PATIENCE, backlog=256,
                )  # fmt: skip
            except OSError:
                continue
            self._port = server.sockets[0].getsockname()[1]
            self._self_addresses.add((self.start.address, self._port))
            beside = self._port + len(self.start.ports) if self.start.ports else 0
            self._torrents = Torrents(self.start, beside)
            return server
        raise OSError(f"no port of {self.start.address} is free for the swarm")

    async def _listen_to_parent(self) -> None:
        """Until it says what comes then, or is gone."""
        while (message := await self._parent.received()) is not None:
            match message["t"]:
                case "have":
                    index = wire.whole(message, "i", self.start.layout.count)
                    self._taking.add(index)
                    self._begin(self._read(index))
                case "idle":
                    self._reading, self._idle_since = None, monotonic()
                    self._delay = random.uniform(0.1, 0.6)  # noqa: S311 - no secret
                case "confirmed":
                    self._confirmed = True
                    await asyncio.sleep(float(message["linger"]))
                    return
                case "bytes":
                    self._parent.answered(message)
                case _:
                    return

    # -- others ----------------------------------------------------------------------------------

    async def _find(self) -> None:
        """Call the members that are known, again and again."""
        while True:
            await self._ask_rendezvous()
            wanted = (self._addresses | set(self.start.members)) - self._self_addresses
            wanted -= {each.at for each in self._neighbours.values()} | self._calling
            chosen = random.sample(sorted(wanted), len(wanted))
            room = _MOST_NEIGHBOURS - len(self._neighbours)
            await asyncio.gather(*(self._call(*each) for each in chosen[:room]))
            self._settled.set()
            young = monotonic() - self._began < _YOUNG
            await asyncio.sleep(_SOON if young else min(_AGAIN, REMEMBERED / 4))

    def _told_of(self, addresses: list[tuple[str, int]]) -> None:
        """Call who is not known yet: whoever comes is known to all at once."""
        known = {each.at for each in self._neighbours.values()} | self._self_addresses
        for each in addresses:
            if each not in known | self._calling and len(known) < _MOST_NEIGHBOURS:
                self._begin(self._call(*each))

    async def _ask_rendezvous(self) -> None:
        own = f"[{self.start.address}]" if ":" in self.start.address else self.start.address
        for where in self.start.rendezvous:
            try:
                found = await asyncio.to_thread(
                    meet, where, self._identity, self.start.topic, f"{own}:{self._port}"
                )
            except Unreachable:
                continue
            self._addresses = {_address(each) for each in found}
            return

    async def _leave(self) -> None:
        for where in self.start.rendezvous:
            own = f"{self.start.address}:{self._port}"
            with suppress(Unreachable):
                await asyncio.to_thread(
                    meet, where, self._identity, self.start.topic, own, leaving=True
                )
                return

    async def _call(self, ip: str, port: int) -> None:
        if (ip, port) in self._calling:
            return
        self._calling.add((ip, port))
        try:
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(
                    ip, port, ssl=self._identity.client(), server_hostname=NAME,
                    local_addr=(self.start.address, 0), limit=wire.LIMIT,
                ),
                _PATIENCE,
            )  # fmt: skip
        except (OSError, TimeoutError):
            self._calling.discard((ip, port))
            return
        greeted = asyncio.Event()
        self._begin(self._converse(reader, writer, (ip, port), greeted))
        await greeted.wait()

    async def _called(self, reader: StreamReader, writer: StreamWriter) -> None:
        await self._converse(reader, writer, None, asyncio.Event())

    async def _converse(
        self,
        reader: StreamReader,
        writer: StreamWriter,
        dialed: tuple[str, int] | None,
        greeted: asyncio.Event,
    ) -> None:
        """One connection, to its end."""
        neighbour = None
        try:
            neighbour = await asyncio.wait_for(self._greet(reader, writer, dialed), _PATIENCE)
            greeted.set()
            if neighbour is None:
                return
            self._met(neighbour)
            while (message := await wire.received(reader)) is not None:
                self._heard(neighbour, message)
        except (OSError, TimeoutError):
            pass
        except BrokenPeer as error:
            if neighbour is not None:
                self._ban(neighbour, f"does not follow the protocol: {error}")
        finally:
            greeted.set()
            if dialed is not None:
                self._calling.discard(dialed)
            writer.transport.abort()
            if neighbour is not None and self._neighbours.get(neighbour.id) is neighbour:
                del self._neighbours[neighbour.id]
                self._torrents.unlink(neighbour.ip, neighbour.hello.libtorrent)
                self._allow()

    async def _greet(
        self, reader: StreamReader, writer: StreamWriter, dialed: tuple[str, int] | None
    ) -> Neighbour | None:
        """None if it is none to speak with. :raises BrokenPeer, OSError: nor can it be."""
        secured = writer.get_extra_info("ssl_object")
        if not isinstance(secured, SSLObject) or not is_of_fleet(secured.getpeercert()):
            return None
        who = fingerprint(secured.getpeercert(binary_form=True) or b"")
        own = Hello(self.start.topic, self.start.size, self.id, self._port, self._torrents.port)
        await wire.send(writer, own.message)
        hello = Hello.of(await wire.received(reader))
        if hello.id == self.id and dialed is not None:
            self._self_addresses.add(dialed)
        if who == self._own or who in self._banned:
            return None
        if (hello.topic, hello.size) != (own.topic, own.size):
            return None
        if (peer := writer.get_extra_info("peername")) is None:
            return None  # it is gone already
        found = Neighbour(hello, who, peer[0], dialed is not None, reader, writer)
        before = self._neighbours.get(hello.id)
        # Two hosts may call each other at once: the call of the smaller id stands.
        stands = (self.id < hello.id) is found.dialed
        if before is not None and not stands:
            return None
        if before is None and len(self._neighbours) >= _MOST_NEIGHBOURS:
            return None
        return found

    def _met(self, neighbour: Neighbour) -> None:
        before = self._neighbours.get(neighbour.id)
        self._neighbours[neighbour.id] = neighbour
        if before is not None:  # two hosts called each other at once
            neighbour.continues(before)
            before.close()
        self._trace(f"met {neighbour.title}")
        neighbour.send({"t": "members", "at": [each.at for each in self._neighbours.values()]})
        self._shorten()
        self._claim(neighbour)

    def _ban(self, neighbour: Neighbour, why: str) -> None:
        """It gets nothing any more, and nothing it said counts."""
        self._banned.add(neighbour.fingerprint)
        self._parent.send({"t": "note", "text": f"swarm: {neighbour.title} {why}; left out"})
        for index in self._chunks.told_by(neighbour.id):
            self._torrents.remove(index)
            self._chunks.forget(index)
        neighbour.close()
        self._neighbours.pop(neighbour.id, None)
        self._allow()

    def _allow(self) -> None:
        """Nobody else's connection is accepted by libtorrent."""
        self._torrents.allow({each.ip for each in self._neighbours.values() if each.proven})

    # -- what they say ---------------------------------------------------------------------------

    def _heard(self, neighbour: Neighbour, message: Message) -> None:
        """:raises BrokenPeer: it is not understood."""
        count = self.start.layout.count
        match message["t"]:
            case "challenge":
                self._begin(self._prove(neighbour, message))
            case "answer":
                self._judge(neighbour, message)
            case "accepted":
                neighbour.accepts = True
                self._link_all(neighbour)
            case "claim":
                first = wire.whole(message, "i", count)
                stop = wire.whole(message, "stop", count + 1)
                neighbour.claim(first, stop)
            case "chunk":
                index = wire.whole(message, "i", count)
                width = self._chunks.pieces_in(index)
                self._offered(neighbour, index, wire.digest_bytes(message, "pieces", width))
            case "members":
                self._told_of(wire.addresses(message, "at", _MOST_NEIGHBOURS))
            case "on":
                neighbour.on.add(wire.whole(message, "i", count))
                self._link(neighbour, message["i"])
            case _:
                pass  # of a later version

    async def _prove(self, neighbour: Neighbour, message: Message) -> None:
        """Answer a challenge with bytes that this host's own backend sends."""
        nonce, places = places_of(message, self.start.layout.size)
        if not neighbour.may_ask():
            raise BrokenPeer("it asks again and again")
        parts = await self._from_backend(places)
        if parts is None:
            neighbour.send({"t": "answer", "digest": ""})
            return
        digest = proof.answer(nonce, self._own, neighbour.fingerprint, parts)
        neighbour.send({"t": "answer", "digest": digest})

    async def _from_backend(self, places: proof.Places) -> list[bytes] | None:
        """What the backend sends to this host at these places; None if it does not."""
        # Once all is verified, every byte of it is what the backend sent to this host, too.
        here = self._chunks.bytes_at(places, own=not self._confirmed)
        return await self._parent.bytes_at(places) if here is None else here

    def _judge(self, neighbour: Neighbour, message: Message) -> None:
        asked, neighbour.challenge = neighbour.challenge, None
        if asked is None:
            return
        given, own = message.get("digest"), self._own
        if not proof.holds(given, asked.nonce, neighbour.fingerprint, own, asked.parts):
            self._ban(neighbour, "did not prove that its backend lets it read the image")
            return
        neighbour.proven = True
        self._trace(f"{neighbour.title} may read the image")
        self._allow()
        neighbour.send({"t": "accepted"})
        self._claim(neighbour)
        for index, pieces in self._chunks.known():
            self._tell(neighbour, index, pieces)
        for index, pieces in neighbour.offers.items():
            self._offered(neighbour, index, pieces)
        neighbour.offers.clear()
        self._link_all(neighbour)

    def _tell(self, neighbour: Neighbour, index: int, pieces: list[bytes]) -> None:
        """Of a chunk that this host has, or that it fetches: to hosts that may have it only."""
        if not neighbour.proven:
            return
        if self._chunks.has(index):
            neighbour.send({"t": "chunk", "i": index, "pieces": b"".join(pieces).hex()})
        neighbour.send({"t": "on", "i": index})

    def _offered(self, neighbour: Neighbour, index: int, pieces: list[bytes]) -> None:
        """A host has this chunk, and says which pieces it consists of."""
        neighbour.claims.pop(index, None)
        if not neighbour.proven:
            neighbour.offers[index] = pieces
            return
        if index < self.start.first:
            return
        known = self._chunks.pieces(index)
        if known is None:
            self._chunks.offered(index, pieces, neighbour.id)
            self._torrents.fetch(index, pieces)
            for each in self._neighbours.values():
                self._tell(each, index, pieces)
                self._link(each, index)
        elif known != pieces and self._chunks.is_own(index):
            self._ban(neighbour, f"has other bytes in chunk {index} than the backend")
            return
        elif known != pieces:
            self._chunks.doubt(index)  # one of two is wrong: the backend decides
        neighbour.has.add(index)

    # -- bytes -----------------------------------------------------------------------------------

    def _link_all(self, neighbour: Neighbour) -> None:
        for index in list(neighbour.on):
            self._link(neighbour, index)

    def _link(self, neighbour: Neighbour, index: int, *, late: bool = False) -> None:
        """Have libtorrent connect to it for one chunk: by the smaller id, once both listen."""
        mine = self.id < neighbour.id or late
        if mine and neighbour.is_mutual and index in neighbour.on and self._torrents.has(index):
            if self._chunks.has(index) and index in neighbour.has:
                return
            self._torrents.connect(index, neighbour.ip, neighbour.hello.libtorrent)

    async def _read(self, index: int) -> None:
        """A chunk was read from the backend here: pass it on."""
        self._progress = monotonic()
        before, teller = self._chunks.pieces(index), self._chunks.teller(index)
        if before is not None:
            self._torrents.remove(index)
        pieces = await asyncio.to_thread(self._chunks.take_in, index)
        self._chunks.keep_own(index, pieces)
        self._taking.discard(index)
        self._torrents.seed(index, pieces)
        for each in [n for n in self._neighbours.values() if n.id == teller]:
            each.owed += 1
            if before != pieces:
                self._ban(each, f"has other bytes in chunk {index} than the backend")
            elif each.owed > _MOST_OWED:
                self._ban(each, "does not send what it says it has")
        self._spread(index, pieces)

    async def _arrived(self, index: int) -> None:
        """libtorrent has all of a chunk: look at it, and pass it on."""
        teller = self._chunks.teller(index)
        if teller is None or self._chunks.has(index):
            return
        if not await asyncio.to_thread(self._chunks.is_intact, index):
            self._torrents.remove(index)  # not on the disk as it was in memory: begin again
            self._chunks.forget(index)
            return
        if not await self._passes_audit(index, teller):
            return
        self._chunks.arrived(index)
        self._progress = monotonic()
        self._trace(f"chunk {index} came from others")
        self._parent.send({"t": "got", "i": index})
        self._spread(index, self._chunks.pieces(index) or [])

    async def _passes_audit(self, index: int, teller: str) -> bool:
        """Compare a little of it with the backend, now and then: who lies is found out early."""
        if teller in self._audited and random.randrange(_AUDITED):  # noqa: S311 - no secret
            return True
        self._audited.add(teller)
        places = proof.candidates(*self.start.layout.span(index))[: proof.PLACES]
        expected = await self._parent.bytes_at(places)
        found = await asyncio.to_thread(self._chunks.in_folder, index, places)
        if expected is None or found == expected:
            return True
        for each in [n for n in self._neighbours.values() if n.id == teller]:
            self._ban(each, f"has other bytes in chunk {index} than the backend")
        self._torrents.remove(index)
        self._chunks.forget(index)
        return False

    def _spread(self, index: int, pieces: list[bytes]) -> None:
        for each in list(self._neighbours.values()):
            self._tell(each, index, pieces)
            self._link(each, index)

    # -- what next -------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Again and again: what has arrived, whom to ask, and what to read next."""
        busy: set[int] = set()
        looked = 0.0
        while True:
            for index in self._torrents.finished():
                if index not in busy:
                    busy.add(index)
                    self._begin(self._arrived(index))
            for index in [each for each in busy if self._chunks.has(each)]:
                busy.discard(index)
            for ip in self._torrents.banned():
                for each in [n for n in self._neighbours.values() if n.ip == ip]:
                    self._ban(each, "sent wrong bytes")
            self._ask_for_proofs()
            self._decide()
            if monotonic() - looked > _LOOK_CLOSER:
                looked = monotonic()
                self._watch(busy)
            await asyncio.sleep(_MOMENT)

    def _watch(self, busy: set[int]) -> None:
        """What moves, and what does not."""
        for index in self._chunks.fetched():
            done = self._torrents.progress(index)
            if self._chunks.heard(index, done):
                self._progress = monotonic()
            elif self._chunks.is_due(index, _QUIET):
                # A connection that was refused, or broke, is not tried again by itself.
                self._torrents.unlink_all(index)
                for each in self._neighbours.values():
                    self._link(each, index, late=True)
            if done >= self.start.layout.length(index) and index not in busy:
                busy.add(index)
                self._begin(self._arrived(index))
        if self._reading is not None:
            grown = sum(self._chunks.grown(index) for index in range(*self._reading))
            if grown != self._grown:
                self._grown, self._progress = grown, monotonic()
                if monotonic() - self._claimed_at > _CLAIM_AGAIN:
                    self._claim_all()
        if not self._complete and self._chunks.complete:
            self._complete = True
            self._parent.send({"t": "complete"})
        if not self._complete and monotonic() - self._progress > self.start.patience:
            self._parent.send({"t": "leave", "why": "nothing arrives"})
            self._progress = monotonic()

    def _ask_for_proofs(self) -> None:
        now = monotonic()
        waiting = [n for n in self._neighbours.values() if not n.proven]
        for each in waiting:
            if each.challenge is not None:
                if now - each.challenge.asked_at > _PROOF:
                    each.close()
            elif (parts := self._telling()) is not None:
                each.ask(parts)

    def _telling(self) -> list[tuple[int, bytes]] | None:
        """Places in the image, and the bytes there, that cannot be guessed."""
        here = self._chunks.own_or_whole(own=True) or self._chunks.own_or_whole(own=False)
        found: list[tuple[int, bytes]] = []
        for index in random.sample(here, min(len(here), 4)):
            for place in proof.candidates(*self.start.layout.span(index)):
                parts = self._chunks.bytes_at([place], own=False)
                if parts and proof.is_telling(parts[0]):
                    found.append((place[0], parts[0]))
                    if len(found) == proof.PLACES:
                        return found
        return found or None

    def _decide(self) -> None:
        """Whether this host reads from the backend now, and what."""
        if self._reading is not None:
            return
        now = monotonic()
        unread = [i for i in self._chunks.unread(now - _SLOW) if i not in self._taking]
        if not unread:
            return
        if not self._neighbours:
            stop = next(
                (at for at, index in enumerate(unread) if index != unread[0] + at), len(unread)
            )
            self._order(unread[0], unread[0] + stop)
            return
        ids = [self.id, *self._neighbours]
        near = window(unread, 2 * len(ids))
        claimed = {
            index
            for each in self._neighbours.values()
            for index, claim in each.claims.items()
            if claim.stands(now)
        }
        free = [index for index in near if index not in claimed]
        deal = Deal(ids, self.start.topic)
        mine = [index for index in free if deal.reader(index) == self.id]
        if mine:
            self._order(mine[0], mine[0] + 1)
        elif free and now - self._idle_since > self._delay:
            self._trace(f"chunk {free[0]} is due, and nobody reads it")
            self._order(free[0], free[0] + 1)

    def _trace(self, text: str) -> None:
        """For whoever looks for the reason of something."""
        self._parent.send({"t": "trace", "text": f"{monotonic() - self._began:.2f}s {text}"})

    def _order(self, first: int, stop: int) -> None:
        self._trace(f"reading chunks {first} to {stop} of {self.start.layout.count}")
        self._reading, self._grown = (first, stop), 0
        self._parent.send({"t": "read", "first": first, "stop": stop})
        self._claim_all()

    def _shorten(self) -> None:
        """Somebody else is here: what was not begun is dealt out."""
        if self._reading is None:
            return
        first, stop = self._reading
        read = self._chunks.has
        done = next((i for i in range(first, stop) if not (read(i) or i in self._taking)), stop)
        if done + 1 < stop:
            self._reading = first, done + 1
            self._parent.send({"t": "until", "stop": done + 1})
            self._claim_all()

    def _claim_all(self) -> None:
        self._claimed_at = monotonic()
        for each in self._neighbours.values():
            self._claim(each)

    def _claim(self, neighbour: Neighbour) -> None:
        """Say what this host reads."""
        if self._reading is not None:
            first, stop = self._reading
            neighbour.send({"t": "claim", "i": first, "stop": stop})


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)
