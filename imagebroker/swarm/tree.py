"""The hash tree of BEP 52: SHA-256 over leaves of 16 KiB, two to a node."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

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


def root(pieces: Sequence[bytes], piece: int) -> bytes:
    """The root above these pieces: one alone, or a layer that is filled up with empty pieces."""
    if len(pieces) == 1:
        return pieces[0]
    empty = _top([bytes(_DIGEST)] * (piece // LEAF))
    return _top([*pieces, *[empty] * (_power(len(pieces)) - len(pieces))])


def root_of_leaves(digests: Sequence[bytes]) -> bytes:
    """The root of a whole file from the digests of its leaves."""
    return _top([*digests, *[bytes(_DIGEST)] * (_power(len(digests)) - len(digests))])


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
