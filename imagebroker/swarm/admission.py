"""Who may be told of chunks: hosts that prove that their own backend lets them read the image."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from imagebroker.swarm import proof
from imagebroker.swarm.peer import Peer, places_of
from imagebroker.swarm.peers import Peers
from imagebroker.swarm.wire import BrokenPeer, Message

if TYPE_CHECKING:
    from imagebroker.swarm.local_host import LocalHost  # it has libtorrent

#: Seconds within which a host has to prove that it may read the image.
_PROOF = 20.0
#: Times that a host is asked that cannot answer.
_ASKED = 3
#: Chunks in which places are looked for that cannot be guessed.
_LOOKED_INTO = 4
#: Chunks of which this host reads a little, in vain, to ask others for it.
_TRIES = 8


class Admission:
    """Challenges others, and answers their challenges. `admitted` hears who has proven it."""

    def __init__(self, local: LocalHost, peers: Peers, admitted: Callable[[Peer], None]) -> None:
        self._local, self._peers, self._admitted = local, peers, admitted
        #: Places that were read only to ask others for them; None: they are being read.
        self._read: list[tuple[int, bytes]] | None = []
        self._tries = _TRIES
        #: All of the image has been verified.
        self.confirmed = False

    # -- this host's own right -------------------------------------------------------------------

    def challenged(self, peer: Peer, message: Message) -> None:
        """Answer, soon, with bytes that this host's own backend sends.

        :raises BrokenPeer: it asks for too much.
        """
        nonce, places = places_of(message, self._local.start.layout.size)
        if not peer.may_ask():
            raise BrokenPeer("it asks again and again")
        self._local.begin(self._prove(peer, nonce, places))

    async def _prove(self, peer: Peer, nonce: str, places: proof.Places) -> None:
        parts = await self._from_backend(places)
        if parts is None:
            peer.send({"t": "answer", "digest": ""})
            return
        digest = proof.answer(nonce, self._local.fingerprint, peer.fingerprint, parts)
        peer.send({"t": "answer", "digest": digest})

    async def _from_backend(self, places: proof.Places) -> list[bytes] | None:
        """What the backend sends to this host at these places; None if it does not."""
        # Once all is verified, every byte of it is what the backend sent to this host, too.
        local = self._local.chunks.bytes_at(places, own=not self.confirmed)
        return await self._local.parent.bytes_at(places) if local is None else local

    # -- that of others --------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask who has not proven it; let go who takes too long."""
        now = monotonic()
        for each in [n for n in self._peers if not n.proven]:
            if each.challenge is not None:
                if now - each.challenge.asked_at > _PROOF:
                    each.close()
            elif (parts := self._unguessable()) is not None:
                each.ask(parts)

    def verify(self, peer: Peer, message: Message) -> None:
        """What it answers."""
        asked, peer.challenge = peer.challenge, None
        if asked is None:
            return
        given, own = message.get("digest"), self._local.fingerprint
        if given == "":  # its backend does not send the bytes now: that is no lie
            peer.unanswered += 1
            if peer.unanswered >= _ASKED:
                peer.close()
            return
        if not proof.holds(given, asked.nonce, peer.fingerprint, own, asked.parts):
            self._peers.ban(peer, "did not prove that its backend lets it read the image")
            return
        peer.proven = True
        self._local.trace(f"{peer.title} may read the image")
        self._peers.allow()
        peer.send({"t": "accepted"})
        self._admitted(peer)

    def _unguessable(self) -> list[tuple[int, bytes]] | None:
        """Places in the image, and the bytes there, that cannot be guessed."""
        chunks = self._local.chunks
        known = chunks.own_or_whole(own=True) or chunks.own_or_whole(own=False)
        found: list[tuple[int, bytes]] = []
        for index in random.sample(known, min(len(known), _LOOKED_INTO)):
            for place in proof.candidates(*self._local.start.layout.span(index)):
                parts = chunks.bytes_at([place], own=False)
                if parts and proof.is_unguessable(parts[0]):
                    found.append((place[0], parts[0]))
                    if len(found) == proof.PLACES:
                        return found
        if not known and self._read == [] and self._tries:
            self._tries -= 1
            # Where enough others read, this host may have no chunk for long.
            self._read = None
            self._local.begin(self._read_places())
        return found or self._read or None

    async def _read_places(self) -> None:
        layout = self._local.start.layout
        index = random.randrange(layout.count)  # noqa: S311 - the nonce is the secret
        places = proof.candidates(*layout.span(index))[: 2 * proof.PLACES]
        parts = await self._local.parent.bytes_at(places) or []
        read = [(place[0], part) for place, part in zip(places, parts, strict=False)]
        self._read = [each for each in read if proof.is_unguessable(each[1])][: proof.PLACES]
