"""Chunks that others have, how they come here, and how they are passed on."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from imagebroker.swarm import proof, wire
from imagebroker.swarm.chunks import Told
from imagebroker.swarm.peer import Peer
from imagebroker.swarm.peers import Peers
from imagebroker.swarm.picker import ChunkPicker
from imagebroker.swarm.plan import LATE, ahead, gateway
from imagebroker.swarm.wire import Message

if TYPE_CHECKING:
    from imagebroker.swarm.local_host import LocalHost  # it has libtorrent

#: Chunks that may go wrong with a host before it is named.
_MOST_FAILED = 1
#: Of so many chunks that came from another host, one is compared with the backend; a host's first
#: one always is.
_AUDITED = 8


class Exchange:
    """Of all chunks of one image, with all peers."""

    def __init__(self, local: LocalHost, peers: Peers, picker: ChunkPicker) -> None:
        self._local, self._peers, self._picker = local, peers, picker
        #: The first comparison with the backend of what a host announced: others wait for it.
        self._audits: dict[str, asyncio.Future[bool | None]] = {}
        #: Chunks of others that could not be compared: they are used, and not passed on.
        self._unproven: set[int] = set()
        #: Chunks that have arrived and are being looked at.
        self._busy: set[int] = set()

    # -- what is said ----------------------------------------------------------------------------

    def introduce(self, peer: Peer) -> None:
        """It may read the image: tell it all, and believe what it has said so far."""
        for index, pieces in self._local.chunks.known():
            self._announce(peer, index, pieces)
        for index, (pieces, own) in peer.offers.items():
            self._offered(peer, index, pieces, own=own)
        peer.offers.clear()
        self._link_all(peer)

    def accepted(self, peer: Peer) -> None:
        """It lets this host have chunks."""
        peer.accepts = True
        self._link_all(peer)

    def listens(self, peer: Peer, message: Message) -> None:
        """Its libtorrent has a chunk, or fetches it. :raises BrokenPeer: there is none such."""
        index = wire.whole(message, "i", self._local.start.layout.count)
        peer.on.add(index)
        self._link(peer, index)

    def offered(self, peer: Peer, message: Message) -> None:
        """It has a chunk, and says which pieces it consists of, and whether its own backend has
        sent them.

        :raises BrokenPeer: it does not.
        """
        index = wire.whole(message, "i", self._local.start.layout.count)
        width = self._local.chunks.pieces_in(index)
        pieces = wire.digest_bytes(message, "pieces", width)
        self._offered(peer, index, pieces, own=message.get("own") is True)

    def _offered(self, peer: Peer, index: int, pieces: list[bytes], *, own: bool) -> None:
        chunks = self._local.chunks
        if not peer.proven:
            peer.offers[index] = pieces, own
            return
        if own:
            peer.vouch(index, pieces)
        self._picker.claims.ended(index)
        if index < self._local.start.first:
            return
        known = chunks.pieces(index)
        if not chunks.agrees(index, pieces):
            self._peers.disprove(index, pieces, peer.id, "the record says")
            return
        if known is None:
            chunks.offered(index, pieces, peer.id)
            self._fetch()
        elif known != pieces and chunks.is_own(index):
            self._peers.disprove(index, pieces, peer.id, "the backend")
            return
        elif known != pieces:
            chunks.doubt(index)  # one of two is wrong: the backend decides
            return
        if own:
            chunks.vouched(index, peer.id)
        peer.has.add(index)
        peer.on.add(index)
        self._link(peer, index)

    def _fetch(self) -> None:
        """What others have, a few chunks at once."""
        chunks = self._local.chunks
        for index in chunks.to_fetch():
            pieces = chunks.pieces(index) or []
            chunks.begin(index)
            self._local.torrents.fetch(index, pieces, chunks.folder(index))
            self._announce_to_all(index, pieces)

    def _announce(self, peer: Peer, index: int, pieces: list[bytes]) -> None:
        """Of a chunk that this host has, or that it fetches: to hosts that may have it only, and at
        once to those that wait for it."""
        if not peer.proven:
            return
        if self._local.chunks.has(index):
            if index in peer.has or index in self._unproven:
                return  # it needs nothing, or this host would pass on what it has not looked at
            own = self._local.chunks.is_own(index)
            told = {"t": "chunk", "i": index, "pieces": b"".join(pieces).hex(), "own": own}
            (peer.mention if index in peer.on else peer.send)(told)
        elif self._local.torrents.has(index):
            (peer.send if self._is_called(peer, index) else peer.mention)({"t": "on", "i": index})

    def wrong(self, index: int, root: bytes) -> None:
        """The backend has other bytes there than the host that announced it, with this root."""
        chunks = self._local.chunks
        told = chunks.told(index)
        if told is not None and chunks.root(index) == root:
            self._peers.disprove(index, told.pieces, chunks.announcer(index), "the backend")
            self._local.torrents.remove(index)
            chunks.forget(index)

    def _announce_to_all(self, index: int, pieces: list[bytes]) -> None:
        for each in self._peers:
            self._announce(each, index, pieces)
            self._link(each, index)

    def _link_all(self, peer: Peer) -> None:
        for index in list(peer.on):
            self._link(peer, index)

    def _link(self, peer: Peer, index: int, *, late: bool = False) -> None:
        """Have libtorrent connect to it for one chunk, once both listen."""
        torrents = self._local.torrents
        if not (peer.is_mutual and index in peer.on and torrents.has(index)):
            return
        if self._local.chunks.has(index) and index in peer.has:
            return
        if late or self._connects(peer, index):
            torrents.connect(index, peer.ip, peer.hello.libtorrent)

    def _connects(self, peer: Peer, index: int) -> bool:
        """Whether it is this host's turn: within a rack, each connects to a few; between racks,
        the one that its rack has for this chunk."""
        local, rack = self._local, self._local.start.rack
        if not rack or peer.hello.rack in ("", rack):
            return peer.id in ahead(local.id, self._peers.ring(index))
        if local.chunks.has(index):
            return False
        mates = [local.id, *(each.id for each in self._peers if each.hello.rack == rack)]
        return gateway(mates, local.start.topic, index) == local.id

    def _is_called(self, peer: Peer, index: int) -> bool:
        """Whether it may be that host's turn to connect to this one."""
        ring = self._peers.ring(index)
        return peer.id not in ring or self._local.id in ahead(peer.id, ring)

    # -- what comes ------------------------------------------------------------------------------

    def read(self, index: int) -> None:
        """A chunk was read from the backend here: pass it on."""
        self._picker.taken.add(index)
        self._local.begin(self._pass_on(index))

    async def _pass_on(self, index: int) -> None:
        local, chunks = self._local, self._local.chunks
        local.progressed()
        before, announcer = chunks.pieces(index), chunks.announcer(index)
        if chunks.has(index):
            local.torrents.remove(index)
        else:
            local.torrents.discard(index)
        pieces = await asyncio.to_thread(chunks.take_in, index)
        chunks.keep_own(index, pieces)
        self._picker.taken.discard(index)
        self._picker.finished(index)
        local.torrents.seed(index, pieces, chunks.folder(index))
        if before is not None and before != pieces:
            self._peers.disprove(index, before, announcer, "the backend")
        self._announce_to_all(index, pieces)

    def confirmed(self) -> None:
        """All of the image has the digest of its record: what was not compared is right."""
        unproven, self._unproven = self._unproven, set()
        for index in unproven:
            self._announce_to_all(index, self._local.chunks.pieces(index) or [])

    def collect(self) -> None:
        """Look at what libtorrent has finished, and at whom it does not trust."""
        torrents = self._local.torrents
        for index in torrents.finished():
            self._take(index, is_flushed=True)
        for index, ip in torrents.banned():
            for each in [n for n in self._peers if n.ip == ip]:
                self._sent_wrong_bytes(each, index)

    def _sent_wrong_bytes(self, peer: Peer, index: int) -> None:
        """libtorrent says so. Now and then it says so of a host that had the right ones: nobody is
        named for one chunk."""
        self._local.trace(f"chunk {index} was wrong as {peer.title} sent it")
        peer.spoiled.add(index)
        self._name_if_proven(peer, "sent wrong bytes")

    def _name_if_proven(self, peer: Peer, why: str) -> None:
        """That chunks do not come counts only where nothing does: a slow host sends something."""
        silent = self._local.chunks.silence(peer.id) > LATE
        failed = peer.spoiled | peer.stalled if silent else peer.spoiled
        if len(failed) > _MOST_FAILED:
            self._reassign(peer)
            self._peers.ban(peer, why)

    def watch(self) -> None:
        """What moves, and what does not."""
        local = self._local
        local.torrents.look_closer()
        self._fetch()
        for index in local.chunks.fetched():
            done = local.torrents.progress(index)
            if local.chunks.heard(index, done):
                local.progressed()
            elif local.chunks.is_due(index):
                if done < local.start.layout.length(index):
                    self._call_others(index)
                else:  # libtorrent does not say that it is on the disk
                    self._take(index, is_flushed=False)
        self._report_stalled()

    def _call_others(self, index: int) -> None:
        """A connection that was refused, or broke, is not tried again by itself."""
        self._local.torrents.unlink_all(index)
        known = [each for each in self._peers if index in each.on]
        known = [each for each in known if index in each.has] or known
        known = [each for each in known if each.hello.rack == self._local.start.rack] or known
        called = random.sample(known, min(len(known), 1))
        if (announcer := self._peers.get(self._local.chunks.announcer(index) or "")) is not None:
            called.append(announcer)
        for each in called:
            self._link(each, index, late=True)

    def _report_stalled(self) -> None:
        """Hosts that say that they have chunks, and do not send them."""
        for index, announcer in self._local.chunks.newly_stuck():
            each = self._peers.get(announcer)
            if each is None:
                continue
            each.stalled.add(index)
            self._local.trace(f"chunk {index} does not come from {each.title}")
            self._name_if_proven(each, "does not send what it says it has")

    def _reassign(self, peer: Peer) -> None:
        """What others have too does not depend on its word."""
        for index in self._local.chunks.announced_by(peer.id):
            others = (n.id for n in self._peers if n is not peer and index in n.has)
            if (other := next(others, None)) is not None:
                self._local.chunks.reannounced(index, other)

    def _take(self, index: int, *, is_flushed: bool) -> None:
        if index not in self._busy:
            self._busy.add(index)
            self._local.begin(self._looked_at(index, is_flushed=is_flushed))

    async def _looked_at(self, index: int, *, is_flushed: bool) -> None:
        try:
            await self._arrived(index, is_flushed=is_flushed)
        finally:
            self._busy.discard(index)

    async def _arrived(self, index: int, *, is_flushed: bool) -> None:
        """libtorrent has all of a chunk, and has verified it: look at it, and pass it on."""
        local, chunks = self._local, self._local.chunks
        told, announcer = chunks.told(index), chunks.announcer(index)
        if told is None or announcer is None or chunks.has(index):
            return
        if not (is_flushed or await asyncio.to_thread(chunks.is_intact, told)):
            self._give_up(told)  # not on the disk as it was in memory
            return
        is_right = await self._audited(told, announcer)
        if is_right is False:
            self._give_up(told)
            return
        if chunks.told(index) != told or not chunks.arrived(index):
            return  # it was read here meanwhile, or is not believed any more
        if is_right is None:
            self._unproven.add(index)
        local.progressed()
        local.trace(f"chunk {index} came from others")
        teller = self._peers.get(announcer)
        by = announcer if teller is None else teller.title
        own = teller is not None and teller.vouches(index, told.pieces)
        local.parent.send({
            "t": "got", "i": index, "by": by, "own": own, "folder": told.folder,
            "root": chunks.root(index).hex(),
        })  # fmt: skip
        self._fetch()
        self._announce_to_all(index, told.pieces)

    def _give_up(self, told: Told) -> None:
        """Begin again, unless it was read here meanwhile, or is fetched anew."""
        if self._local.chunks.told(told.index) == told:
            self._local.torrents.discard(told.index)
            self._local.chunks.forget(told.index)

    async def _audited(self, told: Told, announcer: str) -> bool | None:
        """Compare a little of it with the backend, now and then: who lies is found out early.
        None: the backend did not answer, and nothing of this host was compared before."""
        while (first := self._audits.get(announcer)) is not None:
            if (is_right := await first) is None:
                return None
            if is_right:
                break
            if self._peers.get(announcer) is None:
                return False
            if self._audits.get(announcer) is first:  # it was misled: look at the next one, too
                del self._audits[announcer]
        else:
            first = asyncio.ensure_future(self._is_right(told, announcer))
            self._audits[announcer] = first
            if (is_right := await first) is None:
                self._audits.pop(announcer, None)
            return is_right
        if random.randrange(_AUDITED):  # noqa: S311 - no secret
            return True
        return await self._is_right(told, announcer) is not False

    async def _is_right(self, told: Told, announcer: str) -> bool | None:
        """Compare two places of it with the backend; None if that does not answer."""
        local, index = self._local, told.index
        places = proof.candidates(*local.start.layout.span(index))[: proof.PLACES]
        expected = await local.parent.bytes_at(places)
        found = await asyncio.to_thread(local.chunks.in_folder, told, places)
        if expected is None:
            return None
        if found == expected:
            return True
        if not await asyncio.to_thread(local.chunks.is_intact, told):
            local.trace(f"chunk {index} is not on the disk as it was sent")
            return False
        self._peers.disprove(index, told.pieces, announcer, "the backend")
        return False
