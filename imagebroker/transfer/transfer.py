"""The wishes of one call, as a value: the input of a download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from imagebroker.config.tuning import Tuning
from imagebroker.transfer.demands import Demands
from imagebroker.transfer.fetch.candidates import Candidate
from imagebroker.transfer.limits import Watch
from imagebroker.verify.disk_format import FormatPolicy


class Transfer(NamedTuple):
    """Where the bytes are read from, what must hold for them, and the limits."""

    #: The last one is the backend itself.
    candidates: Sequence[Candidate]
    #: What must hold for the bytes that arrive.
    demands: Demands
    watch: Watch
    tuning: Tuning
    #: What is unpacked on the way: a kind, or `auto`.
    decompress: str | None = None
    #: The formats that the image may have once it is decompressed; None: it is not checked.
    formats: FormatPolicy | None = None
