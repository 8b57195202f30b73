"""Which host reads which part of an image from the backend.

An image is cut into chunks. A chunk is read from the backend by one host and passed on as soon as
it is whole. So that the beginning of the image is there first, only chunks of a window are read:
those from the first one that nobody has on.
"""

from __future__ import annotations

import functools
import hashlib
import random
import statistics
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
_MIB = 1024 * 1024
#: An image has about so many chunks, within these limits of their size.
_CHUNKS = 64
_SMALLEST, _LARGEST = _MIB, 16 * _MIB
#: Pieces of a chunk.
_PIECES = 16
#: Hosts that one speaks with.
MAX_PEERS = 64
#: Hosts that one calls: the rest of the room is for those that come later, else a large fleet would
#: fall apart into groups that speak with nobody else.
MAX_DIALED = 16
#: Seconds after which a chunk of which nothing came from others is read here, and one of which
#: nothing more came.
SILENT, SLOW = 3.0, 6.0
#: The same for one that waits until a host has sent other chunks.
LATE = 20.0
#: Seconds after which others are called for a chunk, where nothing comes of any.
QUIET = 1.5
#: The steps in which partners stand apart: 1, and its powers.
_STRIDE = 8
#: Seconds in which a chunk that was read goes from peer to peer, to any host.
WHOLE = 30.0
#: Chunks that a host fetches from others at once.
FETCHED = 16
#: Seconds after which it is the next host's turn to read a chunk.
_TURN = 0.3
#: So many hosts read from the backend at once. More would only make each of them slower.
READERS = 16
#: Seconds of which a host's pace is compared with that of others. How many times faster half of
#: them are, and how many times sooner they would have the chunk, if it leaves it to them.
MEASURED, _FASTER, _SOONER = 3.0, 4.0, 2.0
#: Seconds that are too short to tell how fast a chunk was read: so fast, at least.
_TELLS = 0.1


def topic(algorithm: str, digest: str) -> str:
    """What all hosts call the image with this digest, to each other and at the rendezvous."""
    return hashlib.sha256(f"imagebroker swarm {algorithm}:{digest}".encode()).hexdigest()


@dataclass(frozen=True)
class Layout:
    """How an image of this size is cut. All hosts must come to the same result."""

    size: int

    @functools.cached_property
    def chunk(self) -> int:
        """Bytes of a chunk: a power of two."""
        wanted = 1 << max(self.size // _CHUNKS - 1, 0).bit_length()
        return min(max(wanted, _SMALLEST), _LARGEST)

    @property
    def piece(self) -> int:
        return self.chunk // _PIECES

    @property
    def count(self) -> int:
        return -(-self.size // self.chunk)

    def index(self, offset: int) -> int:
        """The chunk that has this byte."""
        return offset // self.chunk

    def span(self, index: int) -> tuple[int, int]:
        """Where a chunk begins and ends."""
        return index * self.chunk, min((index + 1) * self.chunk, self.size)

    def length(self, index: int) -> int:
        start, stop = self.span(index)
        return stop - start


@functools.lru_cache(1 << 14)
def weight(member: str, topic: str, index: int) -> bytes:
    return hashlib.sha256(f"{member} {topic} {index}".encode()).digest()


def assigned(members: Collection[str], topic: str, stripe: int) -> list[str]:
    """Whose turn it is: one member for each chunk of a stripe, which has as many as there are
    members. Who joins or leaves changes the order of the others in no stripe."""
    return sorted(members, key=lambda member: weight(member, topic, stripe))


def gateway(rack: Collection[str], topic: str, index: int) -> str:
    """The member of a rack that gets a chunk from other racks; the others have it from there."""
    return min(rack, key=lambda member: weight(member, topic, index))


def ring(hosts: Collection[str], topic: str, index: int) -> list[str]:
    """All hosts, in another order for each chunk: each connects to those that are `ahead` of it."""
    return sorted(hosts, key=lambda host: weight(host, topic, index))


def ahead(own: T, ring: Sequence[T]) -> list[T]:
    """Those in a ring to which one connects: the next one, the eighth, the 64th. Every connection
    costs a TLS handshake for each chunk, and so few bring a chunk to all of them in few steps."""
    place, found, step = ring.index(own), [], 1
    while step < len(ring):
        # Of two that face each other, each would connect to the other.
        if 2 * step != len(ring) or place < step:
            found.append(ring[(place + step) % len(ring)])
        step *= _STRIDE
    return found


class Assignment:
    """Who reads each chunk, by rendezvous hashing over the members that are known."""

    def __init__(self, members: Collection[str], topic: str) -> None:
        self.members, self._topic = sorted(members), topic
        self._stripes: dict[int, Sequence[str]] = {}

    def place(self, member: str, index: int) -> int:
        """How many have their turn at a chunk before this one."""
        reader = self.reader(index)
        order = self._stripes[index // len(self.members)]
        return (order.index(member) - order.index(reader)) % len(order)

    def reader(self, index: int) -> str:
        stripe, place = divmod(index, len(self.members))
        if stripe not in self._stripes:
            self._stripes[stripe] = assigned(self.members, self._topic, stripe)
        return self._stripes[stripe][place]


def opening(first: int, count: int, draw: Callable[[int, int], int] = random.randrange) -> int:
    """Where a host begins to read before it knows of others: at random, so that what each of many
    reads in its first moments is of use to the others."""
    return draw(first, count)


def window(unread: Sequence[int], readers: int) -> Sequence[int]:
    """The chunks that are read next, of those that nobody has, in order."""
    return unread[: min(readers, READERS)]


class StaggeredReads:
    """What one host reads next. The others have their turn at a chunk one after the other, so that
    one that nobody reads is soon read, and by one."""

    def __init__(self) -> None:
        #: Chunks that nobody reads, and since when.
        self._free: dict[int, float] = {}

    def next(
        self,
        own: str,
        assignment: Assignment,
        unread: Sequence[int],
        claimed: Collection[int],
        now: float,
        *,
        last: bool = False,
    ) -> range | None:
        """The chunks that the host `own` reads from the backend now; None: it is not its turn.

        :param unread: chunks that nobody has, or that nobody sends, in order.
        :param claimed: those that another host says it reads.
        :param last: it reads slowly: all others have their turn before it.
        """
        if not unread:
            return None
        if len(assignment.members) == 1:
            return range(unread[0], unread[0] + _in_a_row(unread))
        free = [each for each in window(unread, 2 * len(assignment.members)) if each not in claimed]
        self._free = {index: self._free.get(index, now) for index in free}
        after = len(assignment.members) if last else 0
        places = ((assignment.place(own, index) + after, index) for index in free)
        due = [each for each in places if now - self._free[each[1]] >= each[0] * _TURN]
        if not due:
            return None
        # Not the first one: that may be due for others, too.
        index = min(due)[1]
        return range(index, index + 1)


def waits_in_vain(quiet: float, idle: float) -> bool:
    """Whether other hosts are called for a chunk of which nothing came for `quiet` seconds; nothing
    of any chunk came for `idle` seconds. Every call costs a TLS handshake."""
    return quiet > QUIET and (idle > QUIET or quiet > SLOW)


def gives_up(own: str, index: int, done: int, others: Mapping[int, tuple[int, str]]) -> bool:
    """Whether the host `own` stops to read a chunk, of which it has so many bytes.

    :param others: what others read: bytes that they have of it, and who they are.
    """
    rival = others.get(index)
    if rival is not None and rival > (done, own):
        return True
    return sum(each < index for each in others) >= READERS


class Pace:
    """How fast one host reads one chunk."""

    def __init__(self, now: float, done: float) -> None:
        self._began = now, done
        self._looks = deque([self._began])

    def lately(self, now: float, done: float) -> float | None:
        """Bytes a second of the last few; None: it has not read for so long."""
        self._looks.append((now, done))
        while self._looks[1][0] <= now - MEASURED:
            self._looks.popleft()
        seconds = now - self._looks[0][0]
        return (done - self._looks[0][1]) / seconds if seconds >= MEASURED else None

    def whole(self, now: float, done: float) -> float:
        """Bytes a second of all of it, or more."""
        return (done - self._began[1]) / max(now - self._began[0], _TELLS)


def is_outpaced(pace: float, missing: float, others: Collection[float]) -> bool:
    """Whether a host that reads so many bytes a second leaves its chunk to others, which read so
    many each: a chunk is passed on when it is whole, and all wait for it.

    :param missing: the part of the chunk that is not here: others would read all of it.
    """
    if not others:
        return False
    usual = statistics.median(others)
    return pace * _FASTER < usual and pace * _SOONER < usual * missing


def _in_a_row(numbers: Sequence[int]) -> int:
    """How many follow each other from the first on."""
    return next((at for at, each in enumerate(numbers) if each != numbers[0] + at), len(numbers))
