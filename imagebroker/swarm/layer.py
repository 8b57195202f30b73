"""What the record of an image says of its chunks: the root of its hash tree, and the layer below.

The record has the root alone. A host that has all of the image sends the layer (a digest for each
chunk), and the root proves it: from then on a chunk that is announced with other pieces is a lie of
whoever announced it.
"""

from __future__ import annotations

from imagebroker.swarm import tree, wire
from imagebroker.swarm.circle import Circle
from imagebroker.swarm.here import Here
from imagebroker.swarm.neighbour import Neighbour
from imagebroker.swarm.wire import Message

#: Chunks of an image whose layer fits into one message.
_MOST = 3500


class Layer:
    """The layer of chunks of one image, where its record has a root."""

    def __init__(self, here: Here, circle: Circle) -> None:
        self._here, self._circle = here, circle
        self._root = bytes.fromhex(here.start.root)

    def offer(self, neighbour: Neighbour) -> None:
        """Send it, if it is known and proven."""
        nodes = self._here.chunks.layer
        if nodes is not None and neighbour.proven and len(nodes) <= _MOST:
            neighbour.send({"t": "layer", "nodes": b"".join(nodes).hex()})

    def told(self, neighbour: Neighbour, message: Message) -> None:
        """It has sent the layer. :raises BrokenPeer: it has not."""
        here = self._here
        nodes = wire.digest_bytes(message, "nodes", here.start.layout.count)
        if not self._root or here.chunks.disproved or here.chunks.layer is not None:
            return
        if tree.above(nodes, here.start.layout.chunk) != self._root:
            self._circle.ban(neighbour, "sent a layer that the root in the record does not prove")
            return
        self._believe(nodes)

    def confirmed(self) -> None:
        """All of the image has the digest of its record: its layer is known, without others."""
        chunks = self._here.chunks
        nodes = chunks.nodes()
        if not self._root or nodes is None or chunks.layer is not None:
            return
        if tree.above(nodes, self._here.start.layout.chunk) == self._root:
            self._believe(nodes)
        else:
            self._here.note("the root in the image's record is not that of its bytes")

    def _believe(self, nodes: list[bytes]) -> None:
        here = self._here
        liars = here.chunks.believe(nodes)
        if here.chunks.layer is None:
            here.note("the root in the image's record is not that of its bytes")
            return
        here.trace("the layer of chunks is proven by the root in the record")
        for index, teller in liars:
            if (liar := self._circle.get(teller)) is not None:
                self._circle.ban(liar, f"has other bytes in chunk {index} than the record says")
            here.torrents.remove(index)
            here.chunks.forget(index)
        for each in self._circle:
            self.offer(each)
