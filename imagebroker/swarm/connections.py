"""How hosts find each other, call each other, and say who they are."""

from __future__ import annotations

import asyncio
import random
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from ssl import SSLObject
from time import monotonic
from typing import TYPE_CHECKING

from imagebroker.swarm import wire
from imagebroker.swarm.certificates import NAME, fingerprint, is_of_fleet
from imagebroker.swarm.discovery import Address, Discovery
from imagebroker.swarm.peer import Hello, Peer
from imagebroker.swarm.peers import Peers
from imagebroker.swarm.plan import MAX_DIALED
from imagebroker.swarm.rendezvous import REMEMBERED
from imagebroker.swarm.wire import BrokenPeer, Message

if TYPE_CHECKING:
    from imagebroker.swarm.local_host import LocalHost  # it has libtorrent

#: Seconds between two looks for members: at first, and at most. They double once one is known, or
#: after so many seconds.
_SOON, _SELDOM, _YOUNG = 0.3, min(3.0, REMEMBERED / 4), 3.0
#: Seconds until an address is dialed again: they double with each connection that came to nothing.
_BACK_OFF, _LONGEST = 0.3, 12.0
#: Seconds within which a connection and a greeting must be there.
HANDSHAKE_TIMEOUT = 5.0


class Connections:
    """Calls others, and is called. `met` hears of each, `heard` what it says."""

    def __init__(
        self,
        local: LocalHost,
        peers: Peers,
        met: Callable[[Peer], None],
        heard: Callable[[Peer, Message], None],
    ) -> None:
        self._local, self._peers, self._connected, self._heard = local, peers, met, heard
        self._dialing: set[Address] = set()
        #: When addresses to which a connection ended are dialed again, and the seconds waited.
        self._back_off: dict[Address, tuple[float, float]] = {}
        self._discovery = Discovery(local)
        self._self_addresses: set[Address] = {(local.start.address, local.port)}
        #: Whoever was known at the beginning has been called.
        self.settled = asyncio.Event()

    # -- who is there ----------------------------------------------------------------------------

    async def find(self) -> None:
        """Call the members that are known, again and again."""
        pause = _SOON
        while True:
            wanted = {each for each in await self._discovery.found() if self._is_wanted(each)}
            chosen = random.sample(sorted(wanted), len(wanted))
            while chosen and (most := self._free_slots):
                now, chosen = chosen[:most], chosen[most:]
                await asyncio.gather(*(self._dial(*each) for each in now))
            self.settled.set()
            await asyncio.sleep(pause)
            if len(self._peers) or self._local.age > _YOUNG:
                pause = min(2 * pause, _SELDOM)

    def add_known(self, addresses: list[Address]) -> None:
        """Call who is not known yet: whoever comes is known to all at once."""
        unknown = [each for each in addresses if self._is_wanted(each)]
        for each in unknown[: self._free_slots]:
            self._local.begin(self._dial(*each))

    def _is_wanted(self, address: Address) -> bool:
        """It is not connected, and it is time to dial it."""
        if address in self._self_addresses | self._peers.addresses | self._dialing:
            return False
        return self._back_off.get(address, (0.0, 0.0))[0] <= monotonic()

    def _ended(self, address: Address) -> None:
        """A connection to it was refused, or has ended."""
        self._dialing.discard(address)
        pause = min(2 * self._back_off.get(address, (0.0, _BACK_OFF / 2))[1], _LONGEST)
        self._back_off[address] = monotonic() + pause, pause

    @property
    def _free_slots(self) -> int:
        """So many more are called."""
        called = self._peers.dialed + len(self._dialing - self._peers.addresses)
        return max(min(MAX_DIALED - called, self._peers.free_slots), 0)

    async def leave(self) -> None:
        await self._discovery.leave()

    # -- connections -----------------------------------------------------------------------------

    async def _dial(self, ip: str, port: int) -> None:
        if (ip, port) in self._dialing:
            return
        self._dialing.add((ip, port))
        try:
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(
                    ip, port, ssl=self._local.tls, server_hostname=NAME,
                    local_addr=(self._local.start.address, 0), limit=wire.LIMIT,
                ),
                HANDSHAKE_TIMEOUT,
            )  # fmt: skip
        except (OSError, TimeoutError):
            self._ended((ip, port))
            return
        greeted = asyncio.Event()
        self._local.begin(self._serve(reader, writer, (ip, port), greeted))
        await greeted.wait()

    async def accept(
        self, reader: StreamReader, writer: StreamWriter, hello: Hello | None = None
    ) -> None:
        """Somebody has called this host, and maybe has greeted already."""
        await self._serve(reader, writer, None, asyncio.Event(), hello)

    async def _serve(
        self,
        reader: StreamReader,
        writer: StreamWriter,
        dialed: Address | None,
        greeted: asyncio.Event,
        hello: Hello | None = None,
    ) -> None:
        """One connection, to its end."""
        peer = None
        try:
            peer = await asyncio.wait_for(
                self._handshake(reader, writer, dialed, hello), HANDSHAKE_TIMEOUT
            )
            greeted.set()
            if peer is None:
                return
            self._peers.add(peer)
            self._local.trace(f"met {peer.title}")
            peer.send({"t": "members", "at": sorted(self._peers.addresses)})
            self._connected(peer)
            while (message := await wire.received(reader)) is not None:
                self._heard(peer, message)
        except (OSError, TimeoutError):
            pass
        except BrokenPeer as error:
            if peer is not None:
                self._peers.ban(peer, f"does not follow the protocol: {error}")
        finally:
            greeted.set()
            if dialed is not None:
                self._ended(dialed)
            writer.transport.abort()
            if peer is not None:
                self._peers.remove(peer)

    async def _handshake(
        self,
        reader: StreamReader,
        writer: StreamWriter,
        dialed: Address | None,
        hello: Hello | None,
    ) -> Peer | None:
        """None if it is none to speak with. :raises BrokenPeer, OSError: nor can it be."""
        local = self._local
        secured = writer.get_extra_info("ssl_object")
        if not isinstance(secured, SSLObject) or not is_of_fleet(secured.getpeercert()):
            return None
        who = fingerprint(secured.getpeercert(binary_form=True) or b"")
        start = local.start
        own = Hello(start.topic, start.size, local.id, local.port, local.torrents.port, start.rack)
        await wire.send(writer, own.message)
        hello = hello or Hello.of(await wire.received(reader))
        if hello.id == local.id and dialed is not None:
            self._self_addresses.add(dialed)
        if who == local.fingerprint or self._peers.is_banned(who):
            return None
        if (hello.topic, hello.size) != (own.topic, own.size):
            return None
        if (peer := writer.get_extra_info("peername")) is None:
            return None  # it is gone already
        found = Peer(hello, who, peer[0], dialed is not None, reader, writer)
        # Two hosts may call each other at once: the call of the smaller id stands.
        stands = (local.id < hello.id) is found.dialed
        if self._peers.get(hello.id) is not None:
            return found if stands else None
        return found if self._peers.free_slots > 0 else None
