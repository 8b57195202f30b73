"""What the record of an image says of its chunks: the root of its hash tree, and the layer below.

The record has the root alone. A host that has all of the image sends the layer (a digest for each
chunk), and the root proves it: from then on a chunk that is announced with other pieces is a lie of
whoever announced it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from imagebroker.swarm import tree, wire
from imagebroker.swarm.peer import Peer
from imagebroker.swarm.peers import Peers
from imagebroker.swarm.wire import Message

if TYPE_CHECKING:
    from imagebroker.swarm.local_host import LocalHost  # it has libtorrent

#: Chunks of an image whose layer fits into one message.
MAX_NODES = 3500


class ChunkLayer:
    """The layer of chunks of one image, where its record has a root."""

    def __init__(self, local: LocalHost, peers: Peers) -> None:
        self._local, self._peers = local, peers
        self._root = bytes.fromhex(local.start.root)

    def offer(self, peer: Peer) -> None:
        """Send it, if it is known and proven."""
        nodes = self._local.chunks.layer
        if nodes is not None and peer.proven and len(nodes) <= MAX_NODES:
            peer.send({"t": "layer", "nodes": b"".join(nodes).hex()})

    def told(self, peer: Peer, message: Message) -> None:
        """It has sent the layer. :raises BrokenPeer: it has not."""
        local = self._local
        nodes = wire.digest_bytes(message, "nodes", local.start.layout.count)
        if not self._root or local.chunks.disproved or local.chunks.layer is not None:
            return
        if tree.above(nodes, local.start.layout.chunk) != self._root:
            self._peers.ban(peer, "sent a layer that the root in the record does not prove")
            return
        self._believe(nodes)

    def confirmed(self) -> None:
        """All of the image has the digest of its record: its layer is known, without others."""
        chunks = self._local.chunks
        nodes = chunks.nodes()
        if not self._root or nodes is None or chunks.layer is not None:
            return
        if tree.above(nodes, self._local.start.layout.chunk) == self._root:
            self._believe(nodes)
        else:
            self._local.note("the root in the image's record is not that of its bytes")

    def _believe(self, nodes: list[bytes]) -> None:
        local = self._local
        liars = local.chunks.believe(nodes)
        if local.chunks.layer is None:
            local.note("the root in the image's record is not that of its bytes")
            return
        local.trace("the layer of chunks is proven by the root in the record")
        for index, announcer in liars:
            pieces = local.chunks.pieces(index) or []
            self._peers.disprove(index, pieces, announcer, "the record says")
            local.torrents.discard(index)
            local.chunks.forget(index)
        for each in self._peers:
            self.offer(each)
