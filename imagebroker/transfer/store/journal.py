"""The journal from which a later process resumes a part file: how much of which image it holds.

One line of JSON in a file beside the part file, padded to the length of a page and written with one
`pwrite`, so that `kill -9` leaves the old line or the new one. It is not synced: nothing counts
before it was read again, and has the digest that stands here or, as a part of the whole, the one
that is required.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from imagebroker.model.algorithms import STRONG
from imagebroker.verify.checksum import Checksum

#: One page: the kernel copies it in one go, or not at all where the process is killed.
_LENGTH = 4096


@dataclass(frozen=True)
class Journal:
    """The first `stored` bytes of a part file, and some ranges, belong to this image."""

    version: str | None
    size: int | None
    #: `algorithm:digest` of every checksum that the whole must have.
    required: tuple[str, ...]
    stored: int
    #: Algorithm to hex digest of those `stored` bytes.
    digests: Mapping[str, str]
    #: What is stored beyond them: start, stop, and the sha256 of it; empty where only the digest of
    #: the whole will tell.
    early: tuple[tuple[int, int, str], ...] = ()
    #: Whether some of it came from a location instead of the backend itself.
    located: bool = False
    #: What it was read from (`Entitlement.noted`).
    resource: str = ""
    #: Whether the peer has said, or shown, that it can begin in the middle.
    resumes: bool = False

    @property
    def proves(self) -> bool:
        """Whether something will show that the rest belongs to the same image."""
        some = self.stored > 0 or bool(self.early)
        return some and (self.version is not None or bool(self.required))

    @property
    def covered(self) -> int:
        """Bytes in all."""
        return self.stored + sum(stop - start for start, stop, _ in self.early)

    @property
    def end(self) -> int:
        """Where the last of it ends."""
        return max([self.stored, *(stop for _, stop, _ in self.early)])

    def continues(
        self, version: str | None, size: int | None, required: Sequence[Checksum]
    ) -> bool:
        """Whether what is stored may belong to that image: same version, or same digest.

        A version may be that of another server, a strong digest is that of the image.
        """
        if self.size != size or not self.proves:
            return False
        if version is not None and version == self.version:
            return True
        if self.shares_digest(required):
            return True
        if version is not None and self.version is not None:
            return False
        return bool(required) and spelled(required) == self.required

    def shares_digest(self, required: Sequence[Checksum]) -> bool:
        """Whether a strong digest of the whole that was required then is required again."""
        return any(name in self.required for name in spelled(strong(required)))

    def write(self, fd: int) -> None:
        """Keep it; what does not fit is left out."""
        early = self.early
        while True:
            line = json.dumps(asdict(replace(self, early=early))).encode()
            if len(line) < _LENGTH:
                os.pwrite(fd, line.ljust(_LENGTH - 1) + b"\n", 0)
                return
            if not early:
                return
            early = early[:-1]


def strong(required: Sequence[Checksum]) -> list[Checksum]:
    return [each for each in required if each.algorithm in STRONG]


def spelled(required: Sequence[Checksum]) -> tuple[str, ...]:
    return tuple(sorted(f"{c.algorithm}:{c.digest}" for c in required))


def read(fd: int) -> Journal | None:
    """The journal in an open file; None if it is not a journal."""
    try:
        found = json.loads(os.pread(fd, _LENGTH, 0))
        found["required"] = tuple(found["required"])
        found["early"] = tuple((start, stop, digest) for start, stop, digest in found["early"])
        journal = Journal(**found)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    position = journal.stored if isinstance(journal.stored, int) else 0
    for start, stop, digest in journal.early:
        if not (isinstance(start, int) and isinstance(stop, int) and isinstance(digest, str)):
            return None
        if not position <= start < stop:
            return None
        position = stop
    right = (
        isinstance(journal.stored, int)
        and journal.stored >= 0
        and isinstance(journal.digests, dict)
        and isinstance(journal.version, str | None)
        and isinstance(journal.size, int | None)
        and isinstance(journal.resource, str)
        and isinstance(journal.resumes, bool)
    )
    return journal if right else None
