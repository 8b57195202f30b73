"""What a transfer has done so far, added up from the events in its stream."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from imagebroker.model.image import Image
from imagebroker.transfer.fetch.events import (
    Attempt,
    Checked,
    Cloned,
    Event,
    Mixed,
    Received,
    Restart,
    TakenUp,
    VersionMet,
)


@dataclass
class Account:
    """Fed with every event of one transfer, through as many rounds as it has."""

    attempts: int = 0
    #: The byte at which the last resumed attempt went on; None if none did.
    resumed_from: int | None = None
    #: Bytes that each candidate sent, by its ref; of those that are not void.
    served: dict[str, int] = field(default_factory=dict)
    #: The image as the candidate that was read last described it.
    image: Image | None = None
    #: Versions that were met in this round.
    versions: set[str] = field(default_factory=set)
    #: Whether the bytes are, or may be, of several versions.
    mixed: bool = False
    #: Whether bytes came from a location; from another transfer or the cache.
    located: bool = False
    secondhand: bool = False
    #: Whether bytes of an earlier process are there that only the digest of the whole proves.
    doubtful: bool = False
    #: Whether the kernel copied a file of this host.
    cloned: bool = False
    #: What was computed over the bytes; empty until every check has passed.
    evidence: dict[str, Any] = field(default_factory=dict)
    _before: int = 0
    _reading: str = ""

    def note(self, event: Event) -> None:
        match event:
            case Received():
                ref = event.candidate.ref
                self.served[ref] = self.served.get(ref, 0) + event.size
                self.located = self.located or event.candidate.is_location
            case Attempt():
                self.attempts = self._before + event.number
                self.image, self._reading = event.image, event.candidate.ref
                self.secondhand = self.secondhand or event.candidate.secondhand
                if event.resumed_from is not None:
                    self.resumed_from = event.resumed_from
            case Restart():
                self.served.clear()
                self.located = self.secondhand = self.doubtful = False
            case Mixed():
                self.mixed = True
            case VersionMet():
                self.versions.add(event.version)
            case TakenUp():
                self.doubtful = event.doubtful
            case Cloned():
                self.cloned = True
            case Checked():
                self.evidence = event.evidence
            case _:
                pass

    def begin_round(self) -> None:
        """All that was stored is dropped, and another fetch begins."""
        self._before = self.attempts
        self.resumed_from, self.served, self.versions, self.evidence = None, {}, set(), {}
        self.mixed = self.located = self.secondhand = self.doubtful = self.cloned = False

    @property
    def source(self) -> str:
        """The ref of the candidate that sent most of the bytes."""
        return max(self.served, key=lambda ref: self.served[ref], default=self._reading)

    def shown(self, image: Image) -> Image:
        """The record of what was transferred: mixed bytes are of no version for sure."""
        return replace(image, version=None) if self.mixed else image
