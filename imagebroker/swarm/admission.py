"""Who may be told of chunks: hosts that prove that their own backend lets them read the image."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic

from imagebroker.swarm import proof
from imagebroker.swarm.circle import Circle
from imagebroker.swarm.here import Here
from imagebroker.swarm.neighbour import Neighbour, places_of
from imagebroker.swarm.wire import BrokenPeer, Message

#: Seconds within which a host has to prove that it may read the image.
_PROOF = 20.0
#: Chunks in which places are looked for that cannot be guessed.
_LOOKED_INTO = 4
#: Chunks of which this host reads a little, in vain, to ask others for it.
_TRIES = 8


class Admission:
    """Challenges others, and answers their challenges. `admitted` hears who has proven it."""

    def __init__(self, here: Here, circle: Circle, admitted: Callable[[Neighbour], None]) -> None:
        self._here, self._circle, self._admitted = here, circle, admitted
        #: Places that were read only to ask others for them; None: they are being read.
        self._read: list[tuple[int, bytes]] | None = []
        self._tries = _TRIES
        #: All of the image has been verified.
        self.confirmed = False

    # -- this host's own right -------------------------------------------------------------------

    def challenged(self, neighbour: Neighbour, message: Message) -> None:
        """Answer, soon, with bytes that this host's own backend sends.

        :raises BrokenPeer: it asks for too much.
        """
        nonce, places = places_of(message, self._here.start.layout.size)
        if not neighbour.may_ask():
            raise BrokenPeer("it asks again and again")
        self._here.begin(self._prove(neighbour, nonce, places))

    async def _prove(self, neighbour: Neighbour, nonce: str, places: proof.Places) -> None:
        parts = await self._from_backend(places)
        if parts is None:
            neighbour.send({"t": "answer", "digest": ""})
            return
        digest = proof.answer(nonce, self._here.fingerprint, neighbour.fingerprint, parts)
        neighbour.send({"t": "answer", "digest": digest})

    async def _from_backend(self, places: proof.Places) -> list[bytes] | None:
        """What the backend sends to this host at these places; None if it does not."""
        # Once all is verified, every byte of it is what the backend sent to this host, too.
        here = self._here.chunks.bytes_at(places, own=not self.confirmed)
        return await self._here.parent.bytes_at(places) if here is None else here

    # -- that of others --------------------------------------------------------------------------

    def ask(self) -> None:
        """Ask who has not proven it; let go who takes too long."""
        now = monotonic()
        for each in [n for n in self._circle if not n.proven]:
            if each.challenge is not None:
                if now - each.challenge.asked_at > _PROOF:
                    each.close()
            elif (parts := self._telling()) is not None:
                each.ask(parts)

    def judge(self, neighbour: Neighbour, message: Message) -> None:
        """What it answers."""
        asked, neighbour.challenge = neighbour.challenge, None
        if asked is None:
            return
        given, own = message.get("digest"), self._here.fingerprint
        if not proof.holds(given, asked.nonce, neighbour.fingerprint, own, asked.parts):
            self._circle.ban(neighbour, "did not prove that its backend lets it read the image")
            return
        neighbour.proven = True
        self._here.trace(f"{neighbour.title} may read the image")
        self._circle.allow()
        neighbour.send({"t": "accepted"})
        self._admitted(neighbour)

    def _telling(self) -> list[tuple[int, bytes]] | None:
        """Places in the image, and the bytes there, that cannot be guessed."""
        chunks = self._here.chunks
        known = chunks.own_or_whole(own=True) or chunks.own_or_whole(own=False)
        found: list[tuple[int, bytes]] = []
        for index in random.sample(known, min(len(known), _LOOKED_INTO)):
            for place in proof.candidates(*self._here.start.layout.span(index)):
                parts = chunks.bytes_at([place], own=False)
                if parts and proof.is_telling(parts[0]):
                    found.append((place[0], parts[0]))
                    if len(found) == proof.PLACES:
                        return found
        if not known and self._read == [] and self._tries:
            self._tries -= 1
            # Where enough others read, this host may have no chunk for long.
            self._read = None
            self._here.begin(self._read_places())
        return found or self._read or None

    async def _read_places(self) -> None:
        layout = self._here.start.layout
        index = random.randrange(layout.count)  # noqa: S311 - the nonce is the secret
        places = proof.candidates(*layout.span(index))[: 2 * proof.PLACES]
        parts = await self._here.parent.bytes_at(places) or []
        read = [(place[0], part) for place, part in zip(places, parts, strict=False)]
        self._read = [each for each in read if proof.is_telling(each[1])][: proof.PLACES]
