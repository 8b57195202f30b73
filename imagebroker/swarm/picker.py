"""What this host reads from the backend, and what it says of that to others."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING

from imagebroker.swarm import wire
from imagebroker.swarm.claims import Claims
from imagebroker.swarm.peer import SHORT_ID, Peer
from imagebroker.swarm.peers import Peers
from imagebroker.swarm.plan import (
    MAX_PEERS,
    Assignment,
    Pace,
    StaggeredReads,
    gives_up,
    is_outpaced,
)
from imagebroker.swarm.wire import Message

if TYPE_CHECKING:
    from imagebroker.swarm.local_host import LocalHost  # it has libtorrent

#: Seconds after which a claim is repeated.
_CLAIM_AGAIN = 2.0
#: Peers to which the claim of another host is passed on.
_PASSED_TO = 6


class ChunkPicker:
    """One run of chunks at a time. `taken` are those that were read here and are being hashed."""

    def __init__(
        self, local: LocalHost, peers: Peers, seconds: Callable[[], float] = monotonic
    ) -> None:
        """`seconds`: a clock that goes on while this process waits for a processor."""
        self._local, self._peers, self._seconds = local, peers, seconds
        peers.on_removed = self._left
        layout = local.start.layout
        #: From the first chunk up to the second: it has begun before it knew of others.
        self._reading: tuple[int, int] | None = (local.start.opening, layout.count)
        #: Of the run that was ordered last.
        self._number = 0
        self._is_over = False
        self.taken: set[int] = set()
        self.claims = Claims(local.clock)
        self._assignment = Assignment([local.id], local.start.topic)
        self._staggered = StaggeredReads()
        self._claimed_at, self._grown = 0.0, 0
        #: Of the chunks that it reads, or has read and not said so.
        self._paces: dict[int, Pace] = {}
        self._begin_pace()
        #: It has left a chunk to others because they are faster.
        self._is_slow = False

    def ended(self, number: int) -> None:
        """A run that was ordered is read."""
        if number != self._number:
            return
        self._reading = None

    def stop(self) -> None:
        """It reads nothing any more: what it says to read, nobody else reads."""
        self._reading, self._is_over = None, True

    def decide(self) -> None:
        """Whether this host reads from the backend now, and what."""
        if self._reading is not None or self._is_over:
            return
        local = self._local
        unread = [i for i in local.chunks.unread() if i not in self.taken]
        claimed = self.claims.standing()
        found = self._staggered.next(
            local.id, self._assigned(), unread, claimed, local.clock(), last=self._is_slow
        )
        if found is not None:
            self._order(found.start, found.stop)

    def _assigned(self) -> Assignment:
        """Among those that are here; who says that it has chunks, and sends none, is not."""
        members = sorted([self._local.id, *(each.id for each in self._peers if not each.stalled)])
        if members != self._assignment.members:
            self._assignment = Assignment(members, self._local.start.topic)
        return self._assignment

    def _order(self, first: int, stop: int) -> None:
        self._local.trace(f"reading chunks {first} to {stop} of {self._local.start.layout.count}")
        self._reading, self._grown = (first, stop), 0
        for index in range(first, stop):
            self._paces.pop(index, None)
        self._begin_pace()
        self._number += 1
        self._local.parent.send({"t": "read", "n": self._number, "first": first, "stop": stop})
        self._claim_all()

    def alone(self) -> None:
        """Nobody else is here: the beginning comes first, because it is waited for."""
        if self._reading is not None and self._reading[0] > self._local.start.first:
            self._stop()
            self.decide()

    def limit(self) -> None:
        """Somebody else is here: what was not begun is assigned anew."""
        if self._reading is not None and (at := self._at()) is not None:
            first, stop = self._reading
            if at + 1 < stop:
                self._reading = first, at + 1
                self._local.parent.send({"t": "until", "stop": at + 1})
                self._claim_all()

    def heard(self, peer: Peer, message: Message) -> None:
        """Somebody reads a chunk, as this peer says: of its own, or passes on.

        :raises BrokenPeer: it does not.
        """
        index = wire.whole(message, "i", self._local.start.layout.count)
        done, by = wire.whole(message, "done", 1 << 63), wire.text(message, "by")
        if by == self._local.id or not (peer.proven or by == peer.id):
            return
        if self._peers.is_banned_id(by):
            return  # whoever passes that on
        if message.get("free") is True:
            if self.claims.released(index, by):
                self._pass_on(peer, by, message)
            return
        whole = done >= self._local.start.layout.length(index)
        pace = wire.whole(message, "pace", 1 << 63) if "pace" in message else 0
        if not self.claims.heard(index, by, done, whole=whole, pace=pace):
            return
        self._pass_on(peer, by, message)
        self._give_up()

    def _pass_on(self, peer: Peer, by: str, message: Message) -> None:
        told = _told(message)
        others = [p for p in self._peers if p is not peer and p.id != by and p.short_id not in told]
        for each in random.sample(others, min(len(others), _PASSED_TO)):
            each.send(message)

    def _give_up(self) -> None:
        """If another reads this chunk too and has more of it, or many read what comes before."""
        if self._reading is None or (at := self._at()) is None:
            return
        done = self._local.chunks.grown(at)
        others = self.claims.reading()
        if (rival := self.claims.standing().get(at)) is not None:
            others[at] = rival
        if gives_up(self._local.id, at, done, others):
            self._local.trace(f"chunk {at} is left to others")
            if rival is None:
                self._leave_to_others(at)
            else:
                self._stop()

    def _left(self, peer: Peer) -> None:
        """It has gone: what it read is anybody's."""
        self.claims.left(peer.id)

    def _at(self) -> int | None:
        """The chunk of its run at which this host is."""
        has = self._local.chunks.has
        left = range(*self._reading or (0, 0))
        return next((each for each in left if not (has(each) or each in self.taken)), None)

    def _leave_to_others(self, at: int) -> None:
        """Nobody reads it: whose turn it is does so now, and does not wait."""
        self._stop()
        self._send_claim(self._peers, at, 0, free=True)

    def _is_outpaced(self) -> bool:
        """Whether others read so much faster that this host holds them up."""
        if (at := self._at()) is None:
            return False
        grown = self._local.chunks.grown(at)
        if (pace := self._pace(at, grown).lately(self._seconds(), grown)) is None:
            return False
        missing = 1 - grown / self._local.start.layout.length(at)
        return is_outpaced(pace, missing, self.claims.paces(self._local.id))

    def _pace(self, index: int, done: int) -> Pace:
        """By a clock that goes on while this process waits for a processor: another one reads."""
        if index not in self._paces:
            self._paces[index] = Pace(self._seconds(), done)
        return self._paces[index]

    def _begin_pace(self) -> None:
        """Of the chunk that it reads now."""
        if (at := self._at()) is not None:
            self._pace(at, self._local.chunks.grown(at))

    def _stop(self) -> None:
        self._local.parent.send({"t": "stop"})
        self.ended(self._number)
        self._number += 1

    def watch(self) -> None:
        """Whether what is read grows; a claim stands as long as it does."""
        if self._reading is None:
            return
        if self._is_outpaced() and (at := self._at()) is not None:
            self._local.trace(f"chunk {at} is left to others, which read several times faster")
            self._is_slow = True
            self._leave_to_others(at)
            return
        grown = sum(self._local.chunks.grown(index) for index in range(*self._reading))
        if grown != self._grown:
            self._grown = grown
            self._local.progressed()
            if self._seconds() - self._claimed_at > _CLAIM_AGAIN:
                self._claim_all()

    @property
    def is_reading(self) -> bool:
        return self._reading is not None

    @property
    def readers(self) -> int:
        """Hosts that read from the backend now, as far as this one has heard."""
        return len({self._local.id, *(by for _, by in self.claims.reading().values())})

    @property
    def grown(self) -> int:
        """Bytes of the run that it reads, of chunks that are not whole."""
        at = self._at()
        return 0 if at is None else self._local.chunks.grown(at)

    def finished(self, index: int) -> None:
        """This host has read a chunk: nobody else needs to, although many do not see it yet."""
        length = self._local.start.layout.length(index)
        pace = self._pace(index, length).whole(self._seconds(), length)
        self._send_claim(self._peers, index, length, pace=int(pace))
        self._paces.pop(index, None)
        self._begin_pace()

    def _claim_all(self) -> None:
        self._claimed_at = self._seconds()
        self._claim(self._peers)

    def claim(self, peer: Peer) -> None:
        """Say what this host reads."""
        self._claim([peer])

    def _claim(self, peers: Iterable[Peer]) -> None:
        if self._reading is not None and (at := self._at()) is not None:
            done = self._local.chunks.grown(at)
            pace = self._pace(at, done).lately(self._seconds(), done)
            self._send_claim(peers, at, done, pace=int(pace or 0))

    def _send_claim(
        self, peers: Iterable[Peer], index: int, done: int, *, pace: int = 0, free: bool = False
    ) -> None:
        """With the peers that hear of it from this host: nobody passes it on to them."""
        told = "".join(each.short_id for each in self._peers)
        message = {"t": "claim", "i": index, "by": self._local.id, "done": done, "told": told}
        if free:
            message["free"] = True  # it is not read here any more
        if pace:
            message["pace"] = pace
        for each in peers:
            each.send(message)


def _told(message: Message) -> set[str]:
    """Short ids of those that have heard a claim from the reader. :raises BrokenPeer: too many."""
    ids = wire.text(message, "told", MAX_PEERS * SHORT_ID) if "told" in message else ""
    return {ids[at : at + SHORT_ID] for at in range(0, len(ids), SHORT_ID)}
