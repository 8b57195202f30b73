"""The hosts that this one speaks with, and those that it does not speak with any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from imagebroker.swarm.peer import Peer
from imagebroker.swarm.plan import MAX_PEERS, ring

if TYPE_CHECKING:
    from imagebroker.swarm.local_host import LocalHost  # it has libtorrent

#: Wrong chunks that a host may pass on: with more, it is done without.
_MOST_MISLED = 3


class Peers:
    """Those that are connected, by their ids."""

    def __init__(self, local: LocalHost) -> None:
        self._local = local
        self._by_id: dict[str, Peer] = {}
        #: For chunks: this host and those near it, as long as none comes or goes.
        self._rings: dict[int, list[str]] = {}
        #: Hears who has gone.
        self.on_removed: Callable[[Peer], None] = lambda peer: None
        #: Certificates of hosts that have lied, or could not prove anything, and their ids.
        self._banned: set[str] = set()
        self._banned_ids: set[str] = set()
        #: Wrong chunks that hosts have passed on, by their certificates.
        self._misled: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Peer]:
        """Those that are here now, whatever is done with them meanwhile."""
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def ids(self) -> list[str]:
        return list(self._by_id)

    @property
    def free_slots(self) -> int:
        """So many more may come."""
        return MAX_PEERS - len(self._by_id)

    @property
    def dialed(self) -> int:
        """So many of them were called by this host."""
        return sum(each.dialed for each in self)

    @property
    def addresses(self) -> set[tuple[str, int]]:
        return {each.at for each in self}

    def ring(self, index: int) -> list[str]:
        """Ids of this host and of those to which it passes on a chunk directly: those in its rack,
        or all where it has none. Each connects to a few that come next."""
        if index not in self._rings:
            start = self._local.start
            near = (p.id for p in self if not start.rack or p.hello.rack in ("", start.rack))
            self._rings[index] = ring([self._local.id, *near], start.topic, index)
        return self._rings[index]

    def get(self, host: str) -> Peer | None:
        return self._by_id.get(host)

    def add(self, peer: Peer) -> None:
        before = self._by_id.get(peer.id)
        self._by_id[peer.id] = peer
        self._rings.clear()
        if before is not None:  # two hosts called each other at once
            peer.continues(before)
            before.close()

    def remove(self, peer: Peer) -> None:
        """Its connection has ended."""
        if self._by_id.get(peer.id) is peer:
            self._drop(peer)
            self._local.torrents.unlink(peer.ip, peer.hello.libtorrent)
            self.allow()
            self.on_removed(peer)

    def _drop(self, peer: Peer) -> None:
        self._by_id.pop(peer.id, None)
        self._rings.clear()

    def is_banned(self, fingerprint: str) -> bool:
        return fingerprint in self._banned

    def is_banned_id(self, host: str) -> bool:
        return host in self._banned_ids

    def ban(self, peer: Peer, why: str) -> None:
        """It gets nothing any more, nothing it said counts, and people hear of it."""
        if peer.fingerprint not in self._banned:
            self._local.left_out(peer.title, why)
        self._shut_out(peer)

    def _shut_out(self, peer: Peer) -> None:
        local = self._local
        self._banned.add(peer.fingerprint)
        self._banned_ids.add(peer.id)
        for index in local.chunks.announced_by(peer.id):
            local.torrents.discard(index)
            local.chunks.forget(index)
        peer.close()
        self._drop(peer)
        self.allow()
        self.on_removed(peer)

    def disprove(self, index: int, pieces: list[bytes], teller: str | None, source: str) -> None:
        """What was told of a chunk is wrong. Who said that it has read it is a liar; who only
        passes on what it was told, as `teller` may, is not.

        :param source: what says otherwise: "the backend" or "the record says".
        """
        for each in self:
            if each.vouches(index, pieces):
                self.ban(each, f"has other bytes in chunk {index} than {source}")
        if (misled := self.get(teller or "")) is not None:
            self._local.trace(f"chunk {index} is wrong, and {misled.title} has passed it on")
            self._misled[misled.fingerprint] += 1
            if self._misled[misled.fingerprint] >= _MOST_MISLED:
                self._shut_out(misled)

    def allow(self) -> None:
        """Nobody else's connection is accepted by libtorrent."""
        self._local.torrents.allow({each.ip for each in self if each.proven})

    def close(self) -> None:
        for each in self:
            each.close()
