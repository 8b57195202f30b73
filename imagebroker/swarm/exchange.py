"""Chunks that others have, how they come here, and how they are passed on."""

from __future__ import annotations

import asyncio
import random

from imagebroker.swarm import proof, wire
from imagebroker.swarm.circle import Circle
from imagebroker.swarm.here import Here
from imagebroker.swarm.neighbour import Neighbour
from imagebroker.swarm.plan import LATE, gateway, partners
from imagebroker.swarm.share import Share
from imagebroker.swarm.wire import Message

#: Seconds after which hosts that have a chunk are called again for it.
_QUIET = 1.5
#: Chunks that a host may say it has, and not send.
_MOST_OWED = 2
#: Of so many chunks that came from another host, one is compared with the backend; a host's first
#: one always is.
_AUDITED = 8


class Exchange:
    """Of all chunks of one image, with all neighbours."""

    def __init__(self, here: Here, circle: Circle, share: Share) -> None:
        self._here, self._circle, self._share = here, circle, share
        self._audited: set[str] = set()
        #: Chunks that have arrived and are being looked at.
        self._busy: set[int] = set()

    # -- what is said ----------------------------------------------------------------------------

    def introduce(self, neighbour: Neighbour) -> None:
        """It may read the image: tell it all, and believe what it has said so far."""
        for index, pieces in self._here.chunks.known():
            self._tell(neighbour, index, pieces)
        for index, pieces in neighbour.offers.items():
            self._offered(neighbour, index, pieces)
        neighbour.offers.clear()
        self._link_all(neighbour)

    def accepted(self, neighbour: Neighbour) -> None:
        """It lets this host have chunks."""
        neighbour.accepts = True
        self._link_all(neighbour)

    def listens(self, neighbour: Neighbour, message: Message) -> None:
        """Its libtorrent has a chunk, or fetches it. :raises BrokenPeer: there is none such."""
        index = wire.whole(message, "i", self._here.start.layout.count)
        neighbour.on.add(index)
        self._link(neighbour, index)

    def offered(self, neighbour: Neighbour, message: Message) -> None:
        """It has a chunk, and says which pieces it consists of.

        :raises BrokenPeer: it does not.
        """
        index = wire.whole(message, "i", self._here.start.layout.count)
        width = self._here.chunks.pieces_in(index)
        self._offered(neighbour, index, wire.digest_bytes(message, "pieces", width))

    def _offered(self, neighbour: Neighbour, index: int, pieces: list[bytes]) -> None:
        chunks = self._here.chunks
        if not neighbour.proven:
            neighbour.offers[index] = pieces
            return
        self._share.claims.ended(index)
        if index < self._here.start.first:
            return
        known = chunks.pieces(index)
        if not chunks.agrees(index, pieces):
            self._circle.ban(neighbour, f"has other bytes in chunk {index} than the record says")
            return
        if known is None:
            chunks.offered(index, pieces, neighbour.id)
            self._fetch()
        elif known != pieces and chunks.is_own(index):
            self._circle.ban(neighbour, f"has other bytes in chunk {index} than the backend")
            return
        elif known != pieces:
            chunks.doubt(index)  # one of two is wrong: the backend decides
            return
        neighbour.has.add(index)
        neighbour.on.add(index)
        self._link(neighbour, index)

    def _fetch(self) -> None:
        """What others have, a few chunks at once."""
        chunks = self._here.chunks
        for index in chunks.to_fetch():
            pieces = chunks.pieces(index) or []
            chunks.begin(index)
            self._here.torrents.fetch(index, pieces)
            self._spread(index, pieces)

    def _tell(self, neighbour: Neighbour, index: int, pieces: list[bytes]) -> None:
        """Of a chunk that this host has, or that it fetches: to hosts that may have it only."""
        if not neighbour.proven:
            return
        if self._here.chunks.has(index):
            if index in neighbour.has:
                return  # it needs nothing
            neighbour.send({"t": "chunk", "i": index, "pieces": b"".join(pieces).hex()})
        elif self._here.torrents.has(index):
            neighbour.send({"t": "on", "i": index})

    def wrong(self, index: int) -> None:
        """The backend has other bytes there than the host that has told of it."""
        liar = self._circle.get(self._here.chunks.teller(index) or "")
        if liar is not None:
            self._circle.ban(liar, f"has other bytes in chunk {index} than the backend")
        self._here.torrents.remove(index)
        self._here.chunks.forget(index)

    def _spread(self, index: int, pieces: list[bytes]) -> None:
        for each in self._circle:
            self._tell(each, index, pieces)
            self._link(each, index)

    def _link_all(self, neighbour: Neighbour) -> None:
        for index in list(neighbour.on):
            self._link(neighbour, index)

    def _link(self, neighbour: Neighbour, index: int, *, late: bool = False) -> None:
        """Have libtorrent connect to it for one chunk, once both listen."""
        torrents = self._here.torrents
        if not (neighbour.is_mutual and index in neighbour.on and torrents.has(index)):
            return
        if self._here.chunks.has(index) and index in neighbour.has:
            return
        if late or self._connects(neighbour, index):
            torrents.connect(index, neighbour.ip, neighbour.hello.libtorrent)

    def _connects(self, neighbour: Neighbour, index: int) -> bool:
        """Whether it is this host's turn: within a rack, each connects to a few; between racks,
        the one that its rack has for this chunk."""
        here, rack = self._here, self._here.start.rack
        near = tuple(n.id for n in self._circle if not rack or n.hello.rack in ("", rack))
        if neighbour.id in near:
            return neighbour.id in partners(here.id, near, here.start.topic, index)
        if here.chunks.has(index):
            return False
        mates = [here.id, *(each.id for each in self._circle if each.hello.rack == rack)]
        return gateway(mates, here.start.topic, index) == here.id

    # -- what comes ------------------------------------------------------------------------------

    def read(self, index: int) -> None:
        """A chunk was read from the backend here: pass it on."""
        self._share.taken.add(index)
        self._here.begin(self._pass_on(index))

    async def _pass_on(self, index: int) -> None:
        here, chunks = self._here, self._here.chunks
        here.moved()
        before, teller = chunks.pieces(index), chunks.teller(index)
        if before is not None:
            here.torrents.remove(index)
        pieces = await asyncio.to_thread(chunks.take_in, index)
        chunks.keep_own(index, pieces)
        self._share.taken.discard(index)
        self._share.finished(index)
        here.torrents.seed(index, pieces)
        if before != pieces and (each := self._circle.get(teller or "")) is not None:
            self._circle.ban(each, f"has other bytes in chunk {index} than the backend")
        self._spread(index, pieces)

    def collect(self) -> None:
        """Look at what libtorrent has finished, and at whom it does not trust."""
        torrents = self._here.torrents
        for index in torrents.finished():
            self._take(index)
        for ip in torrents.banned():
            for each in [n for n in self._circle if n.ip == ip]:
                self._circle.ban(each, "sent wrong bytes")

    def watch(self) -> None:
        """What moves, and what does not."""
        here = self._here
        here.torrents.look_closer()
        self._fetch()
        for index in here.chunks.fetched():
            done = here.torrents.progress(index)
            if here.chunks.heard(index, done):
                here.moved()
            elif here.chunks.is_due(index, _QUIET):
                self._call_others(index)
            if done >= here.start.layout.length(index):
                self._take(index)

        self._reproach()

    def _call_others(self, index: int) -> None:
        """A connection that was refused, or broke, is not tried again by itself."""
        self._here.torrents.unlink_all(index)
        known = [each for each in self._circle if index in each.on]
        known = [each for each in known if index in each.has] or known
        known = [each for each in known if each.hello.rack == self._here.start.rack] or known
        called = random.sample(known, min(len(known), 1))
        if (teller := self._circle.get(self._here.chunks.teller(index) or "")) is not None:
            called.append(teller)
        for each in called:
            self._link(each, index, late=True)

    def _reproach(self) -> None:
        """Hosts that say that they have chunks, and do not send them."""
        for index, teller in self._here.chunks.newly_stuck():
            each = self._circle.get(teller)
            if each is None:
                continue
            each.owed += 1
            self._here.trace(f"chunk {index} does not come from {each.title}")
            silent = self._here.chunks.silence(teller) > LATE
            if each.owed > (_MOST_OWED if silent else 2 * _MOST_OWED):
                self._hand_over(each)
                self._circle.ban(each, "does not send what it says it has")

    def _hand_over(self, neighbour: Neighbour) -> None:
        """What others have too does not depend on its word."""
        for index in self._here.chunks.told_by(neighbour.id):
            others = (n.id for n in self._circle if n is not neighbour and index in n.has)
            if (other := next(others, None)) is not None:
                self._here.chunks.told_again(index, other)

    def _take(self, index: int) -> None:
        if index not in self._busy:
            self._busy.add(index)
            self._here.begin(self._looked_at(index))

    async def _looked_at(self, index: int) -> None:
        try:
            await self._arrived(index)
        finally:
            self._busy.discard(index)

    async def _arrived(self, index: int) -> None:
        """libtorrent has all of a chunk: look at it, and pass it on."""
        here, chunks = self._here, self._here.chunks
        teller = chunks.teller(index)
        if teller is None or chunks.has(index):
            return
        if not await asyncio.to_thread(chunks.is_intact, index):
            here.torrents.remove(index)  # not on the disk as it was in memory: begin again
            chunks.forget(index)
            return
        if not await self._passes_audit(index, teller):
            return
        if not chunks.arrived(index):
            return  # it was read here meanwhile, or is not believed any more
        here.moved()
        here.trace(f"chunk {index} came from others")
        told = self._circle.get(teller)
        by = teller if told is None else told.title
        here.parent.send({"t": "got", "i": index, "by": by})
        self._fetch()
        self._spread(index, chunks.pieces(index) or [])

    async def _passes_audit(self, index: int, teller: str) -> bool:
        """Compare a little of it with the backend, now and then: who lies is found out early."""
        here = self._here
        if teller in self._audited and random.randrange(_AUDITED):  # noqa: S311 - no secret
            return True
        self._audited.add(teller)
        places = proof.candidates(*here.start.layout.span(index))[: proof.PLACES]
        expected = await here.parent.bytes_at(places)
        found = await asyncio.to_thread(here.chunks.in_folder, index, places)
        if expected is None or found == expected:
            return True
        if (liar := self._circle.get(teller)) is not None:
            self._circle.ban(liar, f"has other bytes in chunk {index} than the backend")
        here.torrents.remove(index)
        here.chunks.forget(index)
        return False
