"""What travels in the stream of a fetch, and of the layers above it: bytes, and news about them."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from imagebroker.backends.backend import Buffer
from imagebroker.backends.boundary import OpenedSource
from imagebroker.model.image import Image
from imagebroker.transfer.fetch.candidates import Candidate


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt begins to read."""

    #: From 1; those that failed before it count.
    number: int
    candidate: Candidate
    image: Image
    #: The byte at which it goes on; None if it begins at 0.
    resumed_from: int | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes of the image."""

    offset: int
    data: Buffer
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Received:
    """So many bytes have come from a candidate."""

    candidate: Candidate
    size: int


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What is in the image, in order."""

    data: Buffer


@dataclass(frozen=True, slots=True)
class Restart:
    """All bytes before are void: the image begins again at byte 0.

    Whoever has stored them passes this on before they are dropped.
    """


@dataclass(frozen=True, slots=True)
class Mixed:
    """From here on the bytes are of several versions: only a digest of the whole can tell."""


@dataclass(frozen=True, slots=True)
class VersionMet:
    """A source with this version was opened."""

    version: str


@dataclass(frozen=True, slots=True)
class Resumability:
    """Whether a later process could go on with the bytes so far."""

    #: What proves the same bytes at the backend itself; None if nothing does.
    version: str | None
    #: Whether the middle can be asked for; None if nobody knows.
    possible: bool | None


@dataclass(frozen=True, slots=True)
class LocalFile:
    """The bytes are a file of this host: copy it and close the stream, or read on."""

    source: OpenedSource
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Cloned:
    """The destination has the whole image: the kernel has copied it from a file of this host."""


@dataclass(frozen=True, slots=True)
class TakenUp:
    """Bytes that an earlier process stored are part of the result."""

    #: Whether only the digest of the whole proves that they belong to it.
    doubtful: bool


@dataclass(frozen=True, slots=True)
class Stored:
    """So many bytes from the beginning are in the destination, without a gap."""

    position: int


@dataclass(frozen=True, slots=True)
class Checked:
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


def run(events: Events, *listeners: Callable[[Event], None]) -> None:
    """To the end, each event told to the listeners."""
    with closing(events):
        for event in events:
            for listener in listeners:
                listener(event)
