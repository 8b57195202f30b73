"""The account of a transfer: its events so far, added up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from imagebroker.model.algorithms import STRONG, WEAK
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


class Account:
    """Fed with every event of one transfer, through as many rounds as it has."""

    def __init__(self) -> None:
        self.attempts = 0
        #: The image as the candidate that was read last described it.
        self.image: Image | None = None
        self._before, self._reading = 0, ""
        self.begin_round()

    def begin_round(self) -> None:
        """All stored bytes are discarded, and another fetch begins."""
        self._before = self.attempts
        #: The byte at which the last resumed attempt went on; None if none did.
        self.resumed_from: int | None = None
        #: Bytes that each candidate sent, by its ref; of those that are not void.
        self.served: dict[str, int] = {}
        #: The service's store that each of them is in; None if that is not known.
        self.stores: dict[str, str | None] = {}
        #: Versions that were met.
        self.versions: set[str] = set()
        #: Whether the bytes are, or may be, of several versions.
        self.mixed = False
        #: Whether bytes came from a location; from another transfer or the cache.
        self.located = self.secondhand = False
        #: Whether bytes were read from what another transfer stores; in a swarm.
        self.shared = self.swarmed = False
        #: Whether bytes of an earlier process are there that only the digest of the whole proves.
        self.doubtful = False
        #: Whether the kernel copied a file of this host.
        self.cloned = False
        #: What was computed over the bytes; empty until every check has passed.
        self.evidence: dict[str, Any] = {}

    def note(self, event: Event) -> None:
        match event:
            case Received():
                ref = event.candidate.ref
                self.served[ref] = self.served.get(ref, 0) + event.size
                self.stores[ref] = event.candidate.store
                self.located = self.located or event.candidate.is_location
                self.swarmed = self.swarmed or event.candidate.is_swarm
                self.shared = self.shared or event.candidate.secondhand
            case Attempt():
                self.attempts = self._before + event.number
                self.image, self._reading = event.image, event.candidate.ref
                self.secondhand = self.secondhand or event.candidate.secondhand
                if event.resumed_from is not None:
                    self.resumed_from = event.resumed_from
            case Restart():
                self.served.clear()
                self.located = self.secondhand = self.shared = self.doubtful = False
                self.swarmed = False
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

    @property
    def source(self) -> str:
        """The ref of the candidate that sent most of the bytes."""
        return max(self.served, key=self.served.__getitem__, default=self._reading)

    @property
    def via(self) -> str:
        """From where the bytes came: the backend, a location of it, another download, a swarm."""
        if self.swarmed:
            return "swarm"
        return "shared" if self.shared else "location" if self.located else "backend"

    def shown(self, image: Image) -> Image:
        """The record of what was transferred: mixed bytes are of no version for sure."""
        return replace(image, version=None) if self.mixed else image


def facts(
    via: str,
    source: str,
    attempts: int,
    resumed_from: int | None,
    evidence: Mapping[str, Any],
    store: str | None = None,
) -> dict[str, Any]:
    """The log line of a transfer that succeeded."""
    digests = {name: evidence[name] for name in (*STRONG, *WEAK) if name in evidence}
    return {
        "via": via,
        "source": source if via == "location" else None,
        "store": store,
        "attempts": attempts,
        "resumed_from": resumed_from,
        **digests,
        "verified": ", ".join(evidence.get("checked_against", ())) or "no",
    }
