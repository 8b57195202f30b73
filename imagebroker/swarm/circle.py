"""The hosts that this one speaks with, and those that it does not speak with any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from imagebroker.swarm.here import Here
from imagebroker.swarm.neighbour import Neighbour
from imagebroker.swarm.plan import MOST_NEIGHBOURS


class Circle:
    """Neighbours by their ids."""

    def __init__(self, here: Here) -> None:
        self._here = here
        self._neighbours: dict[str, Neighbour] = {}
        #: Hears who has gone.
        self.left: Callable[[Neighbour], None] = lambda neighbour: None
        #: Certificates of hosts that have lied, or could not prove anything.
        self._banned: set[str] = set()

    def __iter__(self) -> Iterator[Neighbour]:
        """Those that are here now, whatever is done with them meanwhile."""
        return iter(list(self._neighbours.values()))

    def __len__(self) -> int:
        return len(self._neighbours)

    @property
    def ids(self) -> list[str]:
        return list(self._neighbours)

    @property
    def room(self) -> int:
        """So many more may come."""
        return MOST_NEIGHBOURS - len(self._neighbours)

    @property
    def called(self) -> int:
        """So many of them were called by this host."""
        return sum(each.dialed for each in self)

    @property
    def addresses(self) -> set[tuple[str, int]]:
        return {each.at for each in self}

    def get(self, host: str) -> Neighbour | None:
        return self._neighbours.get(host)

    def enter(self, neighbour: Neighbour) -> None:
        before = self._neighbours.get(neighbour.id)
        self._neighbours[neighbour.id] = neighbour
        if before is not None:  # two hosts called each other at once
            neighbour.continues(before)
            before.close()

    def leave(self, neighbour: Neighbour) -> None:
        """Its connection has ended."""
        if self._neighbours.get(neighbour.id) is neighbour:
            del self._neighbours[neighbour.id]
            self._here.torrents.unlink(neighbour.ip, neighbour.hello.libtorrent)
            self.allow()
            self.left(neighbour)

    def is_banned(self, fingerprint: str) -> bool:
        return fingerprint in self._banned

    def ban(self, neighbour: Neighbour, why: str) -> None:
        """It gets nothing any more, and nothing it said counts."""
        here = self._here
        if neighbour.fingerprint not in self._banned:
            here.left_out(neighbour.title, why)
        self._banned.add(neighbour.fingerprint)
        for index in here.chunks.told_by(neighbour.id):
            here.torrents.remove(index)
            here.chunks.forget(index)
        neighbour.close()
        self._neighbours.pop(neighbour.id, None)
        self.allow()
        self.left(neighbour)

    def allow(self) -> None:
        """Nobody else's connection is accepted by libtorrent."""
        self._here.torrents.allow({each.ip for each in self if each.proven})

    def close(self) -> None:
        for each in self:
            each.close()
