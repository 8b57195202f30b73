"""What one machine cannot run: thousands of hosts, as events.

Which host reads which chunk is decided by the functions of the product (`imagebroker.swarm.plan`).
Links are queues: a part of a chunk takes its size over the rate at the sender's link and at the
receiver's, and between racks at that of both racks. No processor is simulated.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from imagebroker.swarm.plan import (
    FETCHED,
    MAX_DIALED,
    MAX_PEERS,
    SLOW,
    WHOLE,
    Assignment,
    Layout,
    StaggeredReads,
    gateway,
    gives_up,
    opening,
    partners,
    waits_in_vain,
)

#: Seconds until a host's second process speaks, until a proof has been judged, and between two
#: looks at what to do next.
_STARTS, _PROVES, _LOOKS = 0.6, 0.3, 0.1
#: Seconds in which a claim is passed on to all, and after which it is repeated.
_SPREADS, _REPEATS = 0.2, 2.0
#: Hosts that are called for a chunk of which nothing comes.
_CALLED = 2
#: Bytes that the origin sends to one host before it sends to another.
_SENT = 64 * 1024
#: Parts that a host asks others for at once.
_ASKS = 16
#: Seconds of requests that wait at one host, as in libtorrent (`request_queue_time`).
_QUEUE = 3.0


class Scene(NamedTuple):
    """A fleet, and what becomes of it."""

    title: str
    hosts: int
    mib: int = 256
    megabits: int = 100
    #: Seconds in which the hosts begin.
    over: float = 0.0
    #: Hosts of one rack, and how much less than all of its links its own has; 0: no racks.
    rack: int = 0
    oversubscribed: float = 4.0
    #: Parts of the hosts that die, and whose links have a tenth.
    dying: float = 0.0
    slow: float = 0.0


class Outcome(NamedTuple):
    scene: Scene
    #: Times of one host: the longest of all that live and are not slow, and the median.
    longest: float
    median: float
    images: float
    unfinished: int


class _Link:
    """Takes one part after the other."""

    def __init__(self, rate: float) -> None:
        self.rate, self.free = rate, 0.0

    def until(self, now: float, size: float) -> float:
        """When all of it has passed."""
        self.free = max(self.free, now) + size / self.rate
        return self.free


@dataclass(eq=False)
class _Host:
    name: str
    up: _Link
    down: _Link
    rack: tuple[_Link, _Link] | None
    began: float
    is_slow: bool = False
    alive: bool = True
    ended: float | None = None
    near: list[_Host] = field(default_factory=list)
    #: Of each chunk: parts that are here, and that were asked for, as bits.
    has: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    #: Chunks of which it knows the pieces and that are not whole.
    known: set[int] = field(default_factory=set)
    whole: set[int] = field(default_factory=set)
    #: Of chunks that are fetched: with whom it is connected for them, and since when nothing came.
    links: dict[int, list[_Host]] = field(default_factory=dict)
    quiet: dict[int, float] = field(default_factory=dict)
    #: When anything came from others.
    came: float = 0.0
    reading: int | None = None
    #: Bytes that were read of the next part of each chunk.
    read: dict[int, float] = field(default_factory=dict)
    open_requests: int = 0
    assignment: Assignment | None = None
    staggered: StaggeredReads = field(default_factory=StaggeredReads)
    partners: dict[tuple[int, int], Collection[str]] = field(default_factory=dict)

    def listens(self, index: int) -> bool:
        """It has the chunk, or fetches it."""
        return index in self.whole or index in self.links

    def bytes_of(self, index: int) -> int:
        return self.has[index].bit_count()


class Simulation:
    """One scene. `run` takes it to its end."""

    def __init__(self, scene: Scene, seed: int = 1) -> None:
        self._scene, self._random = scene, random.Random(seed)
        self._layout = Layout(scene.mib << 20)
        #: So that as many events are left for more hosts.
        self._parts = 16 if scene.hosts <= 200 else 8 if scene.hosts <= 2000 else 2
        self._all = (1 << self._parts) - 1
        self._size = self._layout.chunk / self._parts
        self._rate = scene.megabits * 1e6 / 8
        self._origin = _Link(self._rate)
        self._sent = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._now, self._number = 0.0, 0
        self._met: list[_Host] = []
        #: Who reads a chunk, and when all have last heard so.
        self._readers: dict[int, _Host] = {}
        self._claims: dict[int, float] = {}
        self.hosts = self._made()

    def _made(self) -> list[_Host]:
        scene, draw = self._scene, self._random
        racks: list[tuple[_Link, _Link]] = []
        if scene.rack:
            width = scene.rack * self._rate / scene.oversubscribed
            racks = [(_Link(width), _Link(width)) for _ in range(-(-scene.hosts // scene.rack))]
        hosts = []
        for number in range(scene.hosts):
            is_slow = draw.random() < scene.slow
            rate = self._rate / (10 if is_slow else 1)
            hosts.append(
                _Host(
                    f"host{number}", _Link(rate), _Link(rate),
                    racks[number // scene.rack] if racks else None,
                    began=draw.uniform(0, scene.over), is_slow=is_slow,
                    has=[0] * self._layout.count, asked=[0] * self._layout.count,
                )
            )  # fmt: skip
        return hosts

    # -- time ------------------------------------------------------------------------------------

    def _at(self, when: float, what: Callable[..., None], *arguments: Any) -> None:
        self._number += 1
        heapq.heappush(self._events, (when, self._number, what, arguments))

    def run(self) -> Outcome:
        alone = self._scene.mib * (1 << 20) / self._rate
        for host in self.hosts:
            self._at(host.began, self._begin, host)
            if self._random.random() < self._scene.dying:
                self._at(host.began + self._random.uniform(0, alone), self._die, host)
        while self._events and self._now < self._scene.over + 30 * alone:
            self._now, _, what, arguments = heapq.heappop(self._events)
            what(*arguments)
        alive = [each for each in self.hosts if each.alive]
        times = sorted(h.ended - h.began for h in alive if h.ended is not None and not h.is_slow)
        unfinished = sum(h.ended is None for h in alive)
        images = self._sent / (self._scene.mib << 20)
        return Outcome(
            self._scene, times[-1] / alone, times[len(times) // 2] / alone, images, unfinished
        )

    # -- a host's life ---------------------------------------------------------------------------

    def _begin(self, host: _Host) -> None:
        self._read(host, opening(0, self._layout.count))
        self._at(self._now + _STARTS, self._meet, host)

    def _meet(self, host: _Host) -> None:
        """The rendezvous names others, at random."""
        if not host.alive:
            return
        others = [each for each in self._met if each.alive]
        for other in self._random.sample(others, min(len(others), MAX_DIALED)):
            if max(len(host.near), len(other.near)) < MAX_PEERS:
                self._at(self._now + _PROVES, self._pair, host, other)
        self._met.append(host)
        self._look(host)

    def _pair(self, one: _Host, other: _Host) -> None:
        for a, b in ((one, other), (other, one)):
            a.near.append(b)
            a.assignment = None
            for index in b.whole:
                self._learn(a, index)
            for index in a.links:
                self._meet_for(a, b, index)

    def _die(self, host: _Host) -> None:
        if host.ended is not None:
            return
        host.alive = False
        for each in host.near:
            each.near.remove(host)
            each.assignment = None

    def _look(self, host: _Host) -> None:
        """What to read, and whom to ask: again and again."""
        if not host.alive or host.ended is not None:
            return
        if host.reading is None:
            self._decide(host)
        for index in [each for each in host.links if host.has[each] == self._all]:
            if host.reading != index:  # it was reading the end of it when another went on
                self._complete(host, index)
        self._call_others(host)
        self._ask(host)
        self._at(self._now + _LOOKS * self._random.uniform(0.5, 1.5), self._look, host)

    def _decide(self, host: _Host) -> None:
        if host.assignment is None:
            host.assignment = Assignment([host.name, *(each.name for each in host.near)], "image")
        everything = range(self._layout.count)
        unread = [each for each in everything if each not in host.known and each not in host.whole]
        claimed = {each for each, at in self._claims.items() if self._now - at < SLOW}
        found = host.staggered.next(host.name, host.assignment, unread, claimed, self._now)
        if found is not None:
            self._read(host, found.start)

    # -- the origin ------------------------------------------------------------------------------

    def _read(self, host: _Host, index: int) -> None:
        host.reading = index
        self._at(self._now + _SPREADS, self._claim, host, index)
        self._fetch(host, index)

    def _fetch(self, host: _Host, index: int) -> None:
        """The next part of it that is not here."""
        if not host.alive or host.reading != index:
            return
        missing = self._all & ~host.has[index]
        if not missing:
            self._finish_read(host, index)
            return
        self._sent += _SENT
        ready = host.down.until(self._origin.until(self._now, _SENT), 0)
        self._at(ready, self._fetched, host, index)

    def _fetched(self, host: _Host, index: int) -> None:
        host.read[index] = host.read.get(index, 0) + _SENT
        missing = self._all & ~host.has[index]
        if missing and host.read[index] >= self._size:
            host.read[index] = 0
            host.has[index] |= missing & -missing
        self._fetch(host, index)

    def _finish_read(self, host: _Host, index: int) -> None:
        host.reading = None
        self._claims[index] = self._now + WHOLE - SLOW
        self._complete(host, index)
        if host.near or self._now > host.began + _STARTS:
            self._decide(host)
        elif len(host.whole) < self._layout.count:  # it goes on: nobody is known yet
            self._read(host, (index + 1) % self._layout.count)

    def _claim(self, reader: _Host, index: int) -> None:
        """All have heard what is read: it is passed on from host to host."""
        if not reader.alive or reader.reading != index:
            return
        claimed = {
            each: (held.bytes_of(each), held.name)
            for each, held in self._readers.items()
            if held.alive and held.reading == each and held is not reader
        }
        if gives_up(reader.name, index, reader.bytes_of(index), claimed):
            reader.reading = None
            return
        before = self._readers.get(index)
        if before is not None and before is not reader and before.reading == index:
            before.reading = None
        self._readers[index], self._claims[index] = reader, self._now
        self._at(self._now + _REPEATS, self._claim, reader, index)

    # -- other hosts -----------------------------------------------------------------------------

    def _learn(self, host: _Host, index: int) -> None:
        """A peer has all of it."""
        if index not in host.whole and index not in host.known:
            host.known.add(index)
            self._begin_chunks(host)

    def _begin_chunks(self, host: _Host) -> None:
        """Fetch what it knows of, a few at once."""
        for index in sorted(host.known - host.links.keys())[: FETCHED - len(host.links)]:
            host.links[index], host.quiet[index] = [], self._now
            for each in host.near:
                self._meet_for(host, each, index)

    def _meet_for(self, one: _Host, other: _Host, index: int) -> None:
        """Two hosts that listen for a chunk are connected if one of them connects."""
        if other.listens(index) and (
            self._connects(one, other, index) or self._connects(other, one, index)
        ):
            self._link(one, other, index)

    def _connects(self, host: _Host, other: _Host, index: int) -> bool:
        """As in `imagebroker.swarm.exchange`."""
        if host.rack is other.rack:
            return other.name in self._partners(host, index)
        return index not in host.whole and self._is_gateway(host, index)

    def _is_gateway(self, host: _Host, index: int) -> bool:
        mates = [host.name, *(each.name for each in host.near if each.rack is host.rack)]
        return gateway(mates, "image", index) == host.name

    def _partners(self, host: _Host, index: int) -> Collection[str]:
        key = index, len(host.near)
        if key not in host.partners:
            near = tuple(each.name for each in host.near if each.rack is host.rack)
            host.partners[key] = partners(host.name, near, "image", index)
        return host.partners[key]

    def _link(self, one: _Host, other: _Host, index: int) -> None:
        for a, b in ((one, other), (other, one)):
            if index in a.links and b not in a.links[index]:
                a.links[index].append(b)

    def _call_others(self, host: _Host) -> None:
        """For chunks of which nothing comes."""
        for index, since in host.quiet.items():
            if waits_in_vain(self._now - since, self._now - host.came):
                host.quiet[index] = self._now
                has = [each for each in host.near if index in each.whole]
                has = [each for each in has if each.rack is host.rack] or has
                for each in self._random.sample(has, min(len(has), _CALLED)):
                    self._link(host, each, index)

    def _complete(self, host: _Host, index: int) -> None:
        host.known.discard(index)
        if index in host.whole:
            return
        host.whole.add(index)
        host.links.pop(index, None)
        host.quiet.pop(index, None)
        self._begin_chunks(host)
        for each in host.near:
            self._learn(each, index)
        if len(host.whole) == self._layout.count:
            host.ended = self._now

    def _ask(self, host: _Host) -> None:
        """As many parts as may be under way."""
        while host.open_requests < _ASKS and host.known:
            found = self._found(host)
            if found is None:
                return
            index, part, sender = found
            host.asked[index] |= 1 << part
            host.open_requests += 1
            ready = sender.up.until(self._now, self._size)
            if host.rack is not sender.rack and host.rack and sender.rack:
                ready = max(sender.rack[0].until(self._now, self._size), ready)
                ready = max(host.rack[1].until(self._now, self._size), ready)
            ready = max(host.down.until(self._now, self._size), ready)
            self._at(ready, self._came, host, index, part, sender)

    def _found(self, host: _Host) -> tuple[int, int, _Host] | None:
        """A part that a peer has: of a chunk and from a peer at random."""
        wanted = [
            (index, links)
            for index, links in host.links.items()
            if links and host.asked[index] | host.has[index] != self._all
        ]
        if not wanted:
            return None
        best: tuple[int, int, _Host] | None = None
        draw = self._random.random
        for _ in range(8):
            index, links = wanted[int(draw() * len(wanted))]
            sender = links[int(draw() * len(links))]
            there = sender.has[index] & ~(host.asked[index] | host.has[index]) & self._all
            if not there or not sender.alive or self._delay(host, sender) > _QUEUE:
                continue
            bits = [at for at in range(self._parts) if there >> at & 1]
            if best is None or sender.up.free < best[2].up.free:
                best = index, self._random.choice(bits), sender
        return best

    def _delay(self, host: _Host, sender: _Host) -> float:
        """Seconds until what is asked for now would be on its way."""
        free = sender.up.free
        if host.rack is not sender.rack and host.rack and sender.rack:
            free = max(free, sender.rack[0].free, host.rack[1].free)
        return free - self._now

    def _came(self, host: _Host, index: int, part: int, sender: _Host) -> None:
        host.open_requests -= 1
        host.asked[index] &= ~(1 << part)
        if not host.alive:
            return
        if sender.alive:
            host.has[index] |= 1 << part
            if index in host.quiet:
                host.quiet[index] = self._now
            host.came = self._now
            if host.has[index] == self._all and host.reading != index:
                self._complete(host, index)
        if host.ended is None:
            self._ask(host)


SCENES = (
    Scene("100 hosts at once", 100),
    Scene("1,000 hosts at once", 1000),
    Scene("1,000 hosts, racks of 40 with a quarter of the width", 1000, rack=40),
    Scene("1,000 hosts, 5 % die", 1000, dying=0.05),
    Scene("1,000 hosts, 5 % are slow", 1000, slow=0.05),
    Scene("1,000 hosts that begin over ten minutes", 1000, over=600.0),
    Scene("10,000 hosts at once", 10_000),
)


def show() -> None:
    """Print what becomes of every scene."""
    print("| simulated | longest | median | images sent | hosts without it |")
    print("|---|---|---|---|---|")
    for scene in SCENES:
        got = Simulation(scene).run()
        print(
            f"| {scene.title} | {got.longest:.2f} x | {got.median:.2f} x | {got.images:.2f} "
            f"| {got.unfinished} |",
            flush=True,
        )
