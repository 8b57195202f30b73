"""The events in the stream of a fetch, and of the layers above it: bytes, and news about them."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, Protocol

from imagebroker.backends.backend import Buffer
from imagebroker.backends.opened_source import OpenedSource
from imagebroker.model.image import Image
from imagebroker.transfer.fetch.candidates import Candidate


class Attempt(NamedTuple):
    """An attempt begins to read."""

    #: From 1; those that failed before it count.
    number: int
    candidate: Candidate
    image: Image
    #: The byte at which it goes on; None if it begins at 0.
    resumed_from: int | None


class Chunk(NamedTuple):
    """Bytes of the image."""

    offset: int
    data: Buffer
    candidate: Candidate


class Received(NamedTuple):
    """A candidate has sent that many bytes."""

    candidate: Candidate
    size: int


class Unpacked(NamedTuple):
    """Decompressed bytes, in order."""

    data: Buffer


class Restart(NamedTuple):
    """All bytes before are void: the image begins again at byte 0.

    The layer that has stored them passes this on before it drops them.
    """


class Mixed(NamedTuple):
    """From here on the bytes are of several versions: only a digest of the whole can tell."""


class VersionMet(NamedTuple):
    """A source with this version was opened."""

    version: str


class Resumability(NamedTuple):
    """Whether a later process could go on with the bytes so far."""

    #: What proves the same bytes at the backend itself; None if nothing does.
    version: str | None
    #: Whether ranges can be requested; None if unknown.
    possible: bool | None


class LocalFile(NamedTuple):
    """The bytes are a file of this host: copy it and close the stream, or read on."""

    source: OpenedSource
    candidate: Candidate


class Cloned(NamedTuple):
    """The destination has the whole image: the kernel has copied it from a file of this host."""


class TakenUp(NamedTuple):
    """Bytes that an earlier process stored are part of the result."""

    #: Whether only the digest of the whole proves that they belong to it.
    doubtful: bool


class Stored(NamedTuple):
    """The destination has the image up to this byte, without a gap."""

    position: int


class Checked(NamedTuple):
    """Every check has passed: what was computed over the bytes. Those held back may follow."""

    evidence: dict[str, Any]


Event = (
    Attempt
    | Chunk
    | Received
    | Unpacked
    | Restart
    | Mixed
    | VersionMet
    | Resumability
    | LocalFile
    | Cloned
    | TakenUp
    | Stored
    | Checked
)


Events = Generator[Event, None, None]


class Content(Protocol):
    """Bytes in order, each once; they end without an error only if every check has passed."""

    @property
    def image(self) -> Image: ...

    @property
    def size(self) -> int | None:
        """Bytes that are handed out; None if that is not known."""

    def events(self) -> Events: ...
