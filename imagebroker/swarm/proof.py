"""The proof that the backend lets a host read an image: bytes that only the image has.

Whoever is asked gets a few places in the image, chosen at random from what the asking host has, and
a nonce. It reads these places from its own backend, with its own credentials, and answers with a
digest of them that is keyed with the nonce and bound to both ends of the connection.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

#: Bytes at one place.
WIDTH = 8 * 1024
#: Places of one challenge.
PLACES = 2
#: Places that are looked at to find some whose bytes cannot be guessed.
_TRIES = 16

Places = list[tuple[int, int]]


def nonce() -> str:
    return secrets.token_hex(32)


def candidates(start: int, stop: int) -> Places:
    """Places between two offsets, at random, of which those that are not filler are asked for."""
    width = min(WIDTH, stop - start)
    room = stop - start - width + 1
    return [(start + secrets.randbelow(room), width) for _ in range(_TRIES)]


def is_unguessable(data: bytes) -> bool:
    """Whether bytes cannot be guessed: not zeros, not one pattern again and again."""
    return len(set(data)) > 64 or len(data) < WIDTH


def answer(nonce: str, who: str, asker: str, parts: Sequence[bytes]) -> str:
    """What the host `who` has to answer to `asker`."""
    keyed = hmac.new(bytes.fromhex(nonce), f"{who} {asker}".encode(), hashlib.sha256)
    for part in parts:
        keyed.update(len(part).to_bytes(8, "big") + part)
    return keyed.hexdigest()


def holds(given: object, nonce: str, who: str, asker: str, parts: Sequence[bytes]) -> bool:
    return isinstance(given, str) and hmac.compare_digest(
        given.encode(), answer(nonce, who, asker, parts).encode()
    )
