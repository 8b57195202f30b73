"""What one call wants, as a value: the input of a download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from imagebroker.config.tuning import Tuning
from imagebroker.transfer.demands import Demands
from imagebroker.transfer.fetch.candidates import Candidate
from imagebroker.transfer.limits import Watch


@dataclass(frozen=True)
class Transfer:
    """Where the bytes can be had, what must hold for them, and the limits."""

    #: The last one is the backend itself.
    candidates: Sequence[Candidate]
    demands: Demands
    watch: Watch
    tuning: Tuning
    #: What is unpacked on the way: a kind, or `auto`.
    decompress: str | None = None

    @property
    def arriving(self) -> Demands:
        """What must hold for the bytes that arrive: the content of compressed ones is judged
        behind the decoder."""
        if self.decompress is None:
            return self.demands
        return replace(self.demands, formats=None, unpacks=True)
