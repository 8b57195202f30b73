"""What one machine cannot run: thousands of hosts, as events.

Which host reads which chunk is decided by the functions of the product (`imagebroker.swarm.plan`,
`imagebroker.swarm.claims`). Links are queues: a part of a chunk takes its size over the rate at the
sender's link and at the receiver's, and between racks at that of both racks. The origin sends a
little to each that asks it, in turn. No processor is simulated.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from imagebroker.swarm.claims import Claims
from imagebroker.swarm.plan import (
    FETCHED,
    MAX_DIALED,
    MAX_PEERS,
    QUIET,
    READERS,
    Assignment,
    Layout,
    Pace,
    StaggeredReads,
    ahead,
    gateway,
    gives_up,
    is_outpaced,
    opening,
    waits_in_vain,
    weight,
)

#: Seconds until a host's second process speaks, until a proof has been judged, and between two
#: looks at what to do next.
_STARTS, _PROVES, _LOOKS = 0.6, 0.3, 0.1
#: Seconds in which a claim is passed on to all, and after which it is repeated.
_SPREADS, _REPEATS = 0.2, 2.0
#: Hosts that are called for a chunk of which nothing comes.
_CALLED = 2
#: Bytes that the origin sends to one host before it sends to another, so many times before the
#: first of them must have arrived; and those that it sends at once, even if they are not wanted
#: any more (ten packets, as TCP begins).
_SENT, _AHEAD, _AT_ONCE = 64 * 1024, 4, 10 * 1460
#: Parts that a host asks others for at once.
_ASKS = 16
#: Pairs of a part and a host that has it, of which the host with the shortest queue is asked.
_TRIED = 8
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

    __slots__ = ("free", "rate")

    def __init__(self, rate: float) -> None:
        self.rate, self.free = rate, 0.0

    def until(self, now: float, size: float) -> float:
        """When all of it has passed."""
        self.free = (self.free if self.free > now else now) + size / self.rate
        return self.free

    def shared(self, now: float, size: float, flows: int) -> float:
        """The same of one of so many flows that have the link at the same time."""
        self.until(now, size)
        return min(self.free, now + size / self.rate * flows)


@dataclass(eq=False, slots=True)
class _Host:
    number: int
    name: str
    up: _Link
    down: _Link
    rack: tuple[_Link, _Link] | None
    began: float
    chunks: int
    is_slow: bool = False
    alive: bool = True
    ended: float | None = None
    #: Others that it speaks with, and those of them in its rack.
    near: list[_Host] = field(default_factory=list)
    mates: list[_Host] = field(default_factory=list)
    #: Of each chunk: parts that came from others, and these with those that were asked for; bits.
    has: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    #: Chunks that are whole here or at a peer, as bits; those that are whole; those of which it
    #: knows the pieces, and that wait for their turn.
    seen: int = 0
    whole: set[int] = field(default_factory=set)
    waiting: set[int] = field(default_factory=set)
    #: Of chunks that are fetched: with whom it is connected for them, and since when nothing came.
    links: dict[int, list[_Host]] = field(default_factory=dict)
    quiet: dict[int, float] = field(default_factory=dict)
    #: Those of them of which a part can be asked for.
    wanted: list[int] = field(default_factory=list)
    #: Nothing can be waited for in vain before; when anything came from others.
    patient_until: float = 0.0
    came: float = 0.0
    #: What it reads from the origin, which of its requests that is, and what is on its way.
    reading: int | None = None
    request: int = 0
    on_way: int = 0
    pace: Pace = field(default_factory=lambda: Pace(0.0, 0.0))
    #: It has left a chunk to faster ones.
    is_last: bool = False
    #: Bytes that were read of each chunk.
    read: dict[int, float] = field(default_factory=dict)
    open_requests: int = 0
    assignment: Assignment | None = None
    staggered: StaggeredReads = field(default_factory=StaggeredReads)
    partners: dict[int, set[_Host]] = field(default_factory=dict)
    gateways: dict[int, bool] = field(default_factory=dict)

    def listens(self, index: int) -> bool:
        """It has the chunk, or fetches it."""
        return index in self.whole or index in self.links

    def changed(self) -> None:
        """Others have come or gone."""
        self.assignment = None
        self.partners.clear()
        self.gateways.clear()


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
        #: Requests that the origin answers, in turn.
        self._requests: deque[tuple[_Host, int]] = deque()
        self._is_sending = False
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._now, self._number = 0.0, 0
        self._met: list[_Host] = []
        #: What all have heard, who reads each chunk, and what is free for whom has seen so much.
        self._claims = Claims(lambda: self._now)
        self._readers: dict[int, _Host] = {}
        self._claimed: tuple[float, set[int], dict[int, list[int]]] = (-1.0, set(), {})
        #: The place of each host in the ring of each chunk, before any is left out.
        self._places: dict[int, list[int]] = {}
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
                    number, f"host{number}", _Link(rate), _Link(rate),
                    racks[number // scene.rack] if racks else None,
                    began=draw.uniform(0, scene.over), chunks=self._layout.count, is_slow=is_slow,
                    has=[0] * self._layout.count, taken=[0] * self._layout.count,
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
        events, pop = self._events, heapq.heappop
        ends = self._scene.over + 30 * alone
        while events and self._now < ends:
            self._now, _, what, arguments = pop(events)
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
        self._read(host, opening(0, self._layout.count, self._random.randrange))
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
            if a.rack is b.rack:
                a.mates.append(b)
            a.changed()
            for index in b.whole:
                self._learn(a, index)
        for a, b in ((one, other), (other, one)):
            for index in a.links:
                self._meet_for(a, b, index)

    def _die(self, host: _Host) -> None:
        if host.ended is not None:
            return
        host.alive = False
        for each in host.near:
            each.near.remove(host)
            if each.rack is host.rack:
                each.mates.remove(host)
            each.changed()
        # Its peers see that its connections end, and read what it read.
        self._claims.left(host.name)

    def _look(self, host: _Host) -> None:
        """What to read, and whom to ask: again and again."""
        if not host.alive or host.ended is not None:
            return
        if host.reading is None:
            self._decide(host)
        if self._now >= host.patient_until:
            self._call_others(host)
        if host.wanted:
            self._ask(host)
        self._at(self._now + _LOOKS * (0.5 + self._random.random()), self._look, host)

    def _decide(self, host: _Host) -> None:
        unread = self._unread(host.seen)
        if not unread:
            return
        if host.assignment is None:
            host.assignment = Assignment([host.name, *(each.name for each in host.near)], "image")
        found = host.staggered.next(
            host.name, host.assignment, unread, self._claimed[1], self._now, last=host.is_last
        )
        if found is not None:
            self._read(host, found.start)

    def _unread(self, seen: int) -> list[int]:
        """The chunks that who has seen these may read, as all have heard."""
        at, claimed, unread = self._claimed
        if self._now - at > _LOOKS:
            claimed, unread = set(self._claims.standing()), {}
            self._claimed = self._now, claimed, unread
        found = unread.get(seen)
        if found is None:
            found = unread[seen] = [i for i in range(self._layout.count) if not seen >> i & 1]
        return found

    # -- the origin ------------------------------------------------------------------------------

    def _read(self, host: _Host, index: int) -> None:
        host.reading, host.on_way = index, 0
        host.request += 1
        self._at(self._now + _SPREADS, self._claim, host, index, host.request)
        # The first packets come at once, whoever else asks.
        self._sent += _AT_ONCE
        self._origin.until(self._now, _AT_ONCE)
        host.read[index] = host.read.get(index, 0) + _AT_ONCE
        host.pace = Pace(self._now, host.read[index])
        self._requests.append((host, host.request))
        self._send()

    def _send(self) -> None:
        """To the next one that still wants something."""
        while self._requests and not self._is_sending:
            host, request = self._requests.popleft()
            if host.alive and host.request == request and host.reading is not None:
                self._is_sending = True
                self._sent += _SENT
                self._at(self._origin.until(self._now, _SENT), self._left, host, request)

    def _left(self, host: _Host, request: int) -> None:
        """The origin has sent it."""
        self._is_sending = False
        host.on_way += 1
        flows = 1 + min(host.open_requests, _ASKS)
        self._at(host.down.shared(self._now, _SENT, flows), self._fetched, host, request)
        if host.on_way < _AHEAD:
            self._requests.append((host, request))
        self._send()

    def _fetched(self, host: _Host, request: int) -> None:
        if not host.alive or host.request != request or host.reading is None:
            return
        index = host.reading
        host.on_way -= 1
        host.read[index] += _SENT
        if host.read[index] >= self._layout.chunk:
            self._finish_read(host, index)
        elif host.on_way == _AHEAD - 1:
            self._requests.append((host, request))
            self._send()

    def _finish_read(self, host: _Host, index: int) -> None:
        host.reading = None
        pace = host.pace.whole(self._now, host.read[index])
        self._claims.heard(index, host.name, self._layout.chunk, whole=True, pace=pace)
        self._complete(host, index)
        if host.near or self._now > host.began + _STARTS:
            self._decide(host)
        elif len(host.whole) < self._layout.count:  # it goes on: nobody is known yet
            self._read(host, (index + 1) % self._layout.count)

    def _claim(self, reader: _Host, index: int, request: int) -> None:
        """All have heard what is read: it is passed on from host to host."""
        if not reader.alive or reader.request != request or reader.reading is None:
            return
        pace = reader.pace.lately(self._now, reader.read[index])
        self._claims.heard(index, reader.name, int(reader.read[index]), pace=pace or 0.0)
        before = self._readers.get(index)
        _, best = self._claims.standing()[index]
        if best != reader.name:
            self._give_up(reader)
            return
        if before is not None and before is not reader and before.reading == index:
            self._give_up(before)
        missing = 1 - reader.read[index] / self._layout.chunk
        if pace is not None and is_outpaced(pace, missing, self._claims.paces(reader.name)):
            reader.is_last = True
            self._give_up(reader)
            return
        self._readers[index] = reader
        self._at(self._now + _REPEATS, self._claim, reader, index, request)
        reading = {
            each: (int(held.read[each]), held.name)
            for each, held in self._readers.items()
            if held.alive and held.reading == each
        }
        if len(reading) > READERS:
            for each in sorted(reading):
                others = {other: reading[other] for other in reading if other != each}
                if gives_up(self._readers[each].name, each, reading[each][0], others):
                    self._give_up(self._readers[each])

    def _give_up(self, host: _Host) -> None:
        if host.reading is not None:
            self._claims.released(host.reading, host.name)
        host.reading = None

    # -- other hosts -----------------------------------------------------------------------------

    def _learn(self, host: _Host, index: int) -> None:
        """A peer has all of it."""
        if not host.seen >> index & 1:
            host.seen |= 1 << index
            host.waiting.add(index)
            if len(host.links) < FETCHED:
                self._begin_chunks(host)

    def _begin_chunks(self, host: _Host) -> None:
        """Fetch what it knows of, a few at once."""
        if not host.waiting:
            return
        for index in sorted(host.waiting)[: FETCHED - len(host.links)]:
            host.waiting.discard(index)
            host.links[index], host.quiet[index] = [], self._now
            for each in host.near:
                if index in each.whole or index in each.links:
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
            found = host.partners.get(index)
            if found is None:
                found = host.partners[index] = self._partners(host, index)
            return other in found
        return index not in host.whole and self._is_gateway(host, index)

    def _is_gateway(self, host: _Host, index: int) -> bool:
        found = host.gateways.get(index)
        if found is None:
            mates = [host.name, *(each.name for each in host.mates)]
            found = host.gateways[index] = gateway(mates, "image", index) == host.name
        return found

    def _partners(self, host: _Host, index: int) -> set[_Host]:
        places = self._places.get(index)
        if places is None:
            order = sorted(self.hosts, key=lambda each: weight(each.name, "image", index))
            places = self._places[index] = [0] * len(order)
            for place, each in enumerate(order):
                places[each.number] = place
        ring = sorted([places[each.number] for each in (host, *host.mates)])
        found = set(ahead(places[host.number], ring))
        return {each for each in host.mates if places[each.number] in found}

    def _link(self, one: _Host, other: _Host, index: int) -> None:
        for a, b in ((one, other), (other, one)):
            links = a.links.get(index)
            if links is not None and b not in links:
                links.append(b)
                if len(links) == 1 and a.taken[index] != self._all:
                    a.wanted.append(index)

    def _call_others(self, host: _Host) -> None:
        """For chunks of which nothing comes."""
        idle = self._now - host.came
        for index, since in host.quiet.items():
            if waits_in_vain(self._now - since, idle):
                host.quiet[index] = self._now
                has = [each for each in host.near if index in each.whole]
                has = [each for each in has if each.rack is host.rack] or has
                for each in self._random.sample(has, min(len(has), _CALLED)):
                    self._link(host, each, index)
        host.patient_until = min(host.quiet.values(), default=self._now) + QUIET

    def _complete(self, host: _Host, index: int) -> None:
        if index in host.whole:
            return
        host.whole.add(index)
        host.waiting.discard(index)
        host.seen |= 1 << index
        host.has[index] = host.taken[index] = self._all
        host.links.pop(index, None)
        host.quiet.pop(index, None)
        if index in host.wanted:
            host.wanted.remove(index)
        self._begin_chunks(host)
        for each in host.near:
            if not each.seen >> index & 1:
                self._learn(each, index)
        if len(host.whole) == self._layout.count:
            host.ended = self._now

    def _ask(self, host: _Host) -> None:
        """As many parts as may be under way."""
        while host.open_requests < _ASKS and host.wanted:
            found = self._found(host)
            if found is None:
                return
            index, part, sender = found
            host.taken[index] |= part
            if host.taken[index] == self._all:
                host.wanted.remove(index)
            host.open_requests += 1
            ready = sender.up.until(self._now, self._size)
            if host.rack is not sender.rack and host.rack and sender.rack:
                ready = max(sender.rack[0].until(self._now, self._size), ready)
                ready = max(host.rack[1].until(self._now, self._size), ready)
            ready = max(host.down.until(self._now, self._size), ready)
            self._at(ready, self._came, host, index, part, sender)

    def _found(self, host: _Host) -> tuple[int, int, _Host] | None:
        """A part that a peer has: of a chunk and from a peer at random."""
        wanted, draw, now = host.wanted, self._random.random, self._now
        count, shortest = len(wanted), now + _QUEUE
        best: tuple[int, int, _Host] | None = None
        for _ in range(_TRIED):
            index = wanted[int(draw() * count)]
            links = host.links[index]
            sender = links[int(draw() * len(links))]
            there = sender.has[index] & ~host.taken[index]
            if there and sender.alive and sender.up.free < shortest:
                if host.rack is not sender.rack and self._is_busy(host, sender):
                    continue
                best, shortest = (index, there, sender), sender.up.free
                if shortest <= now:
                    break
        return None if best is None else (best[0], self._bit(best[1]), best[2])

    def _bit(self, there: int) -> int:
        """One of these parts at random."""
        for _ in range(int(self._random.random() * there.bit_count())):
            there &= there - 1
        return there & -there

    def _is_busy(self, host: _Host, sender: _Host) -> bool:
        """What is asked for now would wait for long at the links between their racks."""
        if host.rack is None or sender.rack is None:
            return False
        return max(sender.rack[0].free, host.rack[1].free) > self._now + _QUEUE

    def _came(self, host: _Host, index: int, part: int, sender: _Host) -> None:
        host.open_requests -= 1
        if not host.alive:
            return
        if index in host.whole:  # it was read here meanwhile
            pass
        elif sender.alive:
            host.has[index] |= part
            if index in host.quiet:
                host.quiet[index] = self._now
            host.came = self._now
            if host.has[index] == self._all:
                self._complete(host, index)
        else:
            if host.taken[index] == self._all:
                host.wanted.append(index)
            host.taken[index] &= ~part
        if host.ended is None:
            self._ask(host)


SCENES: Sequence[Scene] = (
    Scene("100 hosts at once", 100),
    Scene("100 hosts, 5 % are slow", 100, slow=0.05),
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
