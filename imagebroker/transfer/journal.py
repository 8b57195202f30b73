"""What a later process must know to go on with a part file: how much of which image it holds.

One line of JSON in a file beside the part file, padded to a fixed length and written with one
`pwrite`, so that `kill -9` leaves the old line or the new one. It is not synced: the digest of
the stored bytes is in it, and nothing counts before they were read again and have that digest.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from imagebroker.image import Image
from imagebroker.verify.checksum import Checksum

_LENGTH = 2048


@dataclass(frozen=True)
class Journal:
    """The first `stored` bytes of a part file belong to this version of an image."""

    version: str | None
    size: int | None
    #: `algorithm:digest` of every checksum that the whole must have.
    required: tuple[str, ...]
    stored: int
    #: Algorithm to hex digest of those `stored` bytes.
    digests: Mapping[str, str]

    @classmethod
    def of(
        cls, image: Image, required: Sequence[Checksum], stored: int, digests: Mapping[str, str]
    ) -> Journal:
        return cls(image.version, image.size, _spelled(required), stored, dict(digests))

    @property
    def proves(self) -> bool:
        """Whether something will show that the rest belongs to the same image."""
        return self.stored > 0 and (self.version is not None or bool(self.required))

    def continues(self, image: Image, required: Sequence[Checksum]) -> bool:
        """Whether the stored bytes may be the beginning of `image`: same version or digest."""
        if self.size != image.size or not self.proves:
            return False
        if image.version is not None or self.version is not None:
            return image.version == self.version
        return bool(required) and _spelled(required) == self.required

    def write(self, fd: int) -> None:
        line = json.dumps(asdict(self)).encode()
        if len(line) < _LENGTH:
            os.pwrite(fd, line.ljust(_LENGTH - 1) + b"\n", 0)


def _spelled(required: Sequence[Checksum]) -> tuple[str, ...]:
    return tuple(sorted(f"{c.algorithm}:{c.digest}" for c in required))


def read(fd: int) -> Journal | None:
    """The journal in an open file; None if it is none."""
    try:
        found = json.loads(os.pread(fd, _LENGTH, 0))
        journal = Journal(**{**found, "required": tuple(found["required"])})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    right = (
        isinstance(journal.stored, int)
        and journal.stored >= 0
        and isinstance(journal.digests, dict)
        and isinstance(journal.version, str | None)
        and isinstance(journal.size, int | None)
    )
    return journal if right else None
