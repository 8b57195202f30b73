"""How hosts find each other, call each other, and say who they are."""

from __future__ import annotations

import asyncio
import random
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from ssl import SSLObject

from imagebroker.swarm import wire
from imagebroker.swarm.certificates import NAME, fingerprint, is_of_fleet
from imagebroker.swarm.circle import Circle
from imagebroker.swarm.finding import Address, Finder
from imagebroker.swarm.here import Here
from imagebroker.swarm.neighbour import Hello, Neighbour
from imagebroker.swarm.plan import MOST_CALLED
from imagebroker.swarm.rendezvous import REMEMBERED
from imagebroker.swarm.wire import BrokenPeer, Message

#: Seconds between two calls of members that did not answer.
_AGAIN = 3.0
#: The same for a host that has just come, and seconds for which it has.
_SOON, _YOUNG = 0.3, 3.0
#: Seconds within which a connection and a greeting must be there.
PATIENCE = 5.0


class Meeting:
    """Calls others, and is called. `met` hears of each, `heard` what it says."""

    def __init__(
        self,
        here: Here,
        circle: Circle,
        met: Callable[[Neighbour], None],
        heard: Callable[[Neighbour, Message], None],
    ) -> None:
        self._here, self._circle, self._met, self._heard = here, circle, met, heard
        self._calling: set[Address] = set()
        self._finder = Finder(here)
        self._self_addresses: set[Address] = {(here.start.address, here.port)}
        #: Whoever was known at the beginning has been called.
        self.settled = asyncio.Event()

    # -- who is there ----------------------------------------------------------------------------

    async def find(self) -> None:
        """Call the members that are known, again and again."""
        while True:
            wanted = await self._finder.found()
            wanted -= self._self_addresses | self._circle.addresses | self._calling
            chosen = random.sample(sorted(wanted), len(wanted))
            while chosen and (room := self._room):
                now, chosen = chosen[:room], chosen[room:]
                await asyncio.gather(*(self._call(*each) for each in now))
            self.settled.set()
            young = self._here.age < _YOUNG
            await asyncio.sleep(_SOON if young else min(_AGAIN, REMEMBERED / 4))

    def told_of(self, addresses: list[Address]) -> None:
        """Call who is not known yet: whoever comes is known to all at once."""
        known = self._circle.addresses | self._self_addresses
        unknown = [each for each in addresses if each not in known | self._calling]
        for each in unknown[: self._room]:
            self._here.begin(self._call(*each))

    @property
    def _room(self) -> int:
        """So many more are called."""
        called = self._circle.called + len(self._calling - self._circle.addresses)
        return max(min(MOST_CALLED - called, self._circle.room), 0)

    async def leave(self) -> None:
        await self._finder.leave()

    # -- connections -----------------------------------------------------------------------------

    async def _call(self, ip: str, port: int) -> None:
        if (ip, port) in self._calling:
            return
        self._calling.add((ip, port))
        try:
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(
                    ip, port, ssl=self._here.identity.client(), server_hostname=NAME,
                    local_addr=(self._here.start.address, 0), limit=wire.LIMIT,
                ),
                PATIENCE,
            )  # fmt: skip
        except (OSError, TimeoutError):
            self._calling.discard((ip, port))
            return
        greeted = asyncio.Event()
        self._here.begin(self._converse(reader, writer, (ip, port), greeted))
        await greeted.wait()

    async def called(
        self, reader: StreamReader, writer: StreamWriter, hello: Hello | None = None
    ) -> None:
        """Somebody has called this host, and maybe has greeted already."""
        await self._converse(reader, writer, None, asyncio.Event(), hello)

    async def _converse(
        self,
        reader: StreamReader,
        writer: StreamWriter,
        dialed: Address | None,
        greeted: asyncio.Event,
        hello: Hello | None = None,
    ) -> None:
        """One connection, to its end."""
        neighbour = None
        try:
            neighbour = await asyncio.wait_for(self._greet(reader, writer, dialed, hello), PATIENCE)
            greeted.set()
            if neighbour is None:
                return
            self._circle.enter(neighbour)
            self._here.trace(f"met {neighbour.title}")
            neighbour.send({"t": "members", "at": sorted(self._circle.addresses)})
            self._met(neighbour)
            while (message := await wire.received(reader)) is not None:
                self._heard(neighbour, message)
        except (OSError, TimeoutError):
            pass
        except BrokenPeer as error:
            if neighbour is not None:
                self._circle.ban(neighbour, f"does not follow the protocol: {error}")
        finally:
            greeted.set()
            if dialed is not None:
                self._calling.discard(dialed)
            writer.transport.abort()
            if neighbour is not None:
                self._circle.leave(neighbour)

    async def _greet(
        self,
        reader: StreamReader,
        writer: StreamWriter,
        dialed: Address | None,
        hello: Hello | None,
    ) -> Neighbour | None:
        """None if it is none to speak with. :raises BrokenPeer, OSError: nor can it be."""
        here = self._here
        secured = writer.get_extra_info("ssl_object")
        if not isinstance(secured, SSLObject) or not is_of_fleet(secured.getpeercert()):
            return None
        who = fingerprint(secured.getpeercert(binary_form=True) or b"")
        start = here.start
        own = Hello(start.topic, start.size, here.id, here.port, here.torrents.port, start.rack)
        await wire.send(writer, own.message)
        hello = hello or Hello.of(await wire.received(reader))
        if hello.id == here.id and dialed is not None:
            self._self_addresses.add(dialed)
        if who == here.fingerprint or self._circle.is_banned(who):
            return None
        if (hello.topic, hello.size) != (own.topic, own.size):
            return None
        if (peer := writer.get_extra_info("peername")) is None:
            return None  # it is gone already
        found = Neighbour(hello, who, peer[0], dialed is not None, reader, writer)
        # Two hosts may call each other at once: the call of the smaller id stands.
        stands = (here.id < hello.id) is found.dialed
        if self._circle.get(hello.id) is not None:
            return found if stands else None
        return found if self._circle.room > 0 else None
