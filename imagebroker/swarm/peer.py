"""Another host that downloads the same image: what it says, what it has, and what it has proven."""

from __future__ import annotations

import asyncio
import hashlib
from asyncio import StreamReader, StreamWriter
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

from imagebroker.swarm import proof, wire
from imagebroker.swarm.wire import BrokenPeer, Message

#: The version of what hosts say to each other.
VERSION = 3
#: Bytes that may wait to be sent to one host: it takes nothing any more.
_MOST_WAITING = 4 * 1024 * 1024
#: Seconds in which what is to be sent is gathered, and for which that waits which nobody waits for.
#: Each time, both sides have more to do than for what is said.
_TOGETHER, _LATER = 0.05, 1.0
#: Characters of a short id.
SHORT_ID = 8
#: Challenges that a host answers to one other: each may cost a request to the backend.
_MOST_CHALLENGES = 4
_LARGEST_PLACE, _MOST_PLACES = 64 * 1024, 8


class Hello(NamedTuple):
    """How a host introduces itself."""

    topic: str
    size: int
    #: Of one download of one host.
    id: str
    #: Where it is called, and where its libtorrent listens.
    port: int
    libtorrent: int
    #: Where it stands; empty: it does not say.
    rack: str = ""

    @property
    def message(self) -> Message:
        return {"t": "hello", "v": VERSION, **self._asdict()}

    @classmethod
    def of(cls, message: Message | None) -> Hello:
        """:raises BrokenPeer: it is none, or of another version."""
        if message is None or message["t"] != "hello" or message.get("v") != VERSION:
            raise BrokenPeer("no greeting of this version")
        return cls(
            wire.text(message, "topic"),
            wire.whole(message, "size", 1 << 63),
            wire.text(message, "id"),
            wire.whole(message, "port", 1 << 16),
            wire.whole(message, "libtorrent", 1 << 16),
            wire.text(message, "rack") if "rack" in message else "",
        )


class Challenge(NamedTuple):
    """What was asked of a host, and the bytes that only the image has."""

    nonce: str
    parts: list[bytes]
    asked_at: float


@dataclass(eq=False)
class Peer:
    """One host that is connected."""

    hello: Hello
    #: Of its certificate: who it is.
    fingerprint: str
    #: The address from which it speaks.
    ip: str
    #: This host has called it.
    dialed: bool
    reader: StreamReader
    writer: StreamWriter
    #: It has proven that its backend lets it read the image.
    proven: bool = False
    #: It has said the same of this host.
    accepts: bool = False
    challenge: Challenge | None = None
    #: When it was first asked for a proof.
    since: float = field(default_factory=monotonic)
    #: Challenges that it could not answer.
    unanswered: int = 0
    #: Challenges of its that were answered.
    answered: int = 0
    #: Chunks for which its libtorrent listens, and those of them that it has.
    on: set[int] = field(default_factory=set)
    has: set[int] = field(default_factory=set)
    #: Chunks that it said it has before it had proven anything, and whether at first hand.
    offers: dict[int, tuple[list[bytes], bool]] = field(default_factory=dict)
    #: Digests of what it has said of chunks that it knows at first hand.
    vouched: dict[int, bytes] = field(default_factory=dict)
    #: Chunks that it said it has, and did not send; chunks of which it sent wrong bytes, as
    #: libtorrent says.
    stalled: set[int] = field(default_factory=set)
    spoiled: set[int] = field(default_factory=set)
    #: What is to be sent, and when.
    _waiting: bytearray = field(default_factory=bytearray, init=False)
    _due: asyncio.TimerHandle | None = field(default=None, init=False)

    @property
    def id(self) -> str:
        return self.hello.id

    @property
    def short_id(self) -> str:
        """The end of its id, which is drawn at random."""
        return self.id[-SHORT_ID:]

    @property
    def at(self) -> tuple[str, int]:
        """Where it is called."""
        return self.ip, self.hello.port

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.ip} (certificate {self.fingerprint[:16]})"

    @property
    def is_mutual(self) -> bool:
        """Bytes go in both directions of a connection: both must have shown that they may."""
        return self.proven and self.accepts

    def send(self, message: Message) -> None:
        """Soon. A host that takes nothing is let go."""
        self._send(message, _TOGETHER)

    def mention(self, message: Message) -> None:
        """With what is sent next, or a little later: it can wait for that."""
        self._send(message, _LATER)

    def _send(self, message: Message, seconds: float) -> None:
        transport = self.writer.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() + len(self._waiting) > _MOST_WAITING:
            transport.abort()
            return
        self._waiting += wire.encoded(message)
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        if self._due is None or when < self._due.when():
            if self._due is not None:
                self._due.cancel()
            self._due = loop.call_at(when, self._flush)

    def _flush(self) -> None:
        """What was said in a moment goes in one piece."""
        self._due = None
        if not self.writer.transport.is_closing():
            self.writer.write(bytes(self._waiting))
        self._waiting.clear()

    def continues(self, before: Peer) -> None:
        """It is the same host, with the same certificate, on another connection."""
        if before.fingerprint == self.fingerprint:
            self.proven, self.accepts, self.answered = (
                before.proven,
                before.accepts,
                before.answered,
            )
            self.on, self.has, self.offers = before.on, before.has, before.offers
            self.stalled, self.spoiled = before.stalled, before.spoiled
            self.vouched, self.unanswered = before.vouched, before.unanswered

    def vouch(self, index: int, pieces: list[bytes]) -> None:
        """It says that it has read a chunk of these pieces from its own backend."""
        self.vouched[index] = _print(pieces)

    def vouches(self, index: int, pieces: list[bytes]) -> bool:
        return self.vouched.get(index) == _print(pieces)

    def close(self) -> None:
        self.writer.transport.abort()

    def ask(self, parts: list[tuple[int, bytes]]) -> None:
        """Ask for a proof: the bytes at these offsets."""
        nonce = proof.nonce()
        self.challenge = Challenge(nonce, [data for _, data in parts], monotonic())
        places = [[offset, len(data)] for offset, data in parts]
        self.send({"t": "challenge", "nonce": nonce, "places": places})

    def may_ask(self) -> bool:
        self.answered += 1
        return self.answered <= _MOST_CHALLENGES


def _print(pieces: list[bytes]) -> bytes:
    return hashlib.sha256(b"".join(pieces)).digest()


def places_of(message: Message, size: int) -> tuple[str, proof.Places]:
    """What a challenge asks for. :raises BrokenPeer: too much, or what is not in the image."""
    nonce = wire.digest_bytes(message, "nonce", 1)[0].hex()
    asked = message.get("places")
    if not isinstance(asked, list) or not 0 < len(asked) <= _MOST_PLACES:
        raise BrokenPeer("no places")
    found = []
    for each in asked:
        match each:
            case [int(offset), int(length)] if (
                offset >= 0 and 0 < length <= _LARGEST_PLACE and offset + length <= size
            ):
                found.append((offset, length))
            case _:
                raise BrokenPeer(f"a place is {each!r:.60}")
    return nonce, found
