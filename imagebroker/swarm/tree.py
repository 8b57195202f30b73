"""The hash tree of BEP 52: SHA-256 over leaves of 16 KiB, two to a node."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from imagebroker.backends.backend import Buffer  # much else comes with it

LEAF = 16 * 1024
_DIGEST = hashlib.sha256().digest_size


def leaves(chunks: Iterable[bytes]) -> list[bytes]:
    """The digests of all leaves of what is read in chunks of any size."""
    found, rest = [], bytearray()
    for chunk in chunks:
        rest += chunk
        whole = len(rest) // LEAF * LEAF
        with memoryview(rest) as view:
            found += [hashlib.sha256(view[at : at + LEAF]).digest() for at in range(0, whole, LEAF)]
        del rest[:whole]
    if rest:
        found.append(hashlib.sha256(rest).digest())
    return found


def layer(digests: Sequence[bytes], piece: int) -> list[bytes]:
    """The digest of each piece of `piece` bytes, a power of two and at least one leaf."""
    wide = piece // LEAF
    return [
        _top([*digests[at : at + wide], *[bytes(_DIGEST)] * (wide - len(digests[at : at + wide]))])
        for at in range(0, len(digests), wide)
    ]


def pieces(chunks: Iterable[bytes], piece: int) -> list[bytes]:
    """The digests of all pieces of a file that is read in chunks of any size."""
    digests = leaves(chunks)
    found = layer(digests, piece)
    # A file of one piece has no layer: its root is over its own leaves alone.
    return found if len(found) > 1 else [root_of_leaves(digests)]


def root(pieces: Sequence[bytes], piece: int) -> bytes:
    """The root above these pieces: one alone, or a layer that is filled up with empty pieces."""
    if len(pieces) == 1:
        return pieces[0]
    empty = _top([bytes(_DIGEST)] * (piece // LEAF))
    return _top([*pieces, *[empty] * (_power(len(pieces)) - len(pieces))])


def above(nodes: Sequence[bytes], width: int) -> bytes:
    """The root of a whole file above these nodes of `width` bytes; one alone is the root."""
    return nodes[0] if len(nodes) == 1 else root(nodes, width)


def node(pieces: Sequence[bytes], piece: int, length: int, width: int) -> bytes:
    """The node of `width` bytes in the tree of the whole file, of which these pieces are all."""
    if len(pieces) > 1:
        height = (_power(len(pieces)) * (piece // LEAF)).bit_length() - 1
    else:
        height = _power(-(-length // LEAF)).bit_length() - 1
    return raised(root(pieces, piece), height, (width // LEAF).bit_length() - 1)


def root_of_leaves(digests: Sequence[bytes]) -> bytes:
    """The root of a whole file from the digests of its leaves."""
    return _top([*digests, *[bytes(_DIGEST)] * (_power(len(digests)) - len(digests))])


class Root:
    """The root of a whole file, computed as its bytes come by; used like a hash of `hashlib`."""

    def __init__(self) -> None:
        self._rest = bytearray()
        #: Subtrees that are whole, from the left: their height and their root.
        self._nodes: list[tuple[int, bytes]] = []

    def update(self, data: Buffer) -> None:
        """Bytes of any number, in order."""
        with memoryview(data) as whole, whole.cast("B") as view:
            at = 0
            if self._rest:
                at = min(LEAF - len(self._rest), len(view))
                self._rest += view[:at]
                if len(self._rest) < LEAF:
                    return
                self._add(hashlib.sha256(self._rest).digest())
                self._rest.clear()
            last = len(view) - (len(view) - at) % LEAF
            for start in range(at, last, LEAF):
                self._add(hashlib.sha256(view[start : start + LEAF]).digest())
            self._rest += view[last:]

    def _add(self, node: bytes) -> None:
        height = 0
        while self._nodes and self._nodes[-1][0] == height:
            node = hashlib.sha256(self._nodes.pop()[1] + node).digest()
            height += 1
        self._nodes.append((height, node))

    def digest(self) -> bytes:
        """Of all bytes so far; there must be one."""
        nodes = Root()
        nodes._nodes = list(self._nodes)
        if self._rest:
            nodes._add(hashlib.sha256(self._rest).digest())
        height, node = nodes._nodes.pop()
        for beside, left in reversed(nodes._nodes):
            node = hashlib.sha256(left + raised(node, height, beside)).digest()
            height = beside + 1
        return node

    def hexdigest(self) -> str:
        return self.digest().hex() if self._nodes or self._rest else ""


def raised(node: bytes, height: int, to: int) -> bytes:
    """The root of a subtree of height `to` whose left part this is, and whose rest is empty."""
    for each in range(height, to):
        node = hashlib.sha256(node + _empty(each)).digest()
    return node


@functools.cache
def _empty(height: int) -> bytes:
    return _top([bytes(_DIGEST)] * (1 << height))


def _top(nodes: Sequence[bytes]) -> bytes:
    row = list(nodes)
    while len(row) > 1:
        row = [
            hashlib.sha256(left + right).digest()
            for left, right in zip(row[::2], row[1::2], strict=True)
        ]
    return row[0]


def _power(count: int) -> int:
    """The next power of two."""
    return 1 << max(count - 1, 0).bit_length()
