"""Where the bytes of an image can be read: its locations, and the backend itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from imagebroker.backends.opened_source import OpenedSource
from imagebroker.exceptions import (
    Cancelled,
    DestinationError,
    FormatError,
    SignatureError,
    TransferError,
)

#: Errors after which no other candidate is tried: none could do better, or none may.
FINAL = (DestinationError, Cancelled, FormatError, SignatureError)
#: Called while something is waited for; may raise.
Waiting = Callable[[], Any]
#: Opens a candidate that will probably be read from this byte on, within so many seconds; calls its
#: last argument while it waits.
Opener = Callable[[int, float, Waiting], OpenedSource]


class Candidate(NamedTuple):
    """One place to read the bytes from."""

    ref: str
    open: Opener
    #: It is a location of the record, not the backend that has the record.
    is_location: bool = False
    #: Its bytes come from another transfer, or from the cache: that they are wrong is no verdict on
    #: the image.
    secondhand: bool = False
    #: They come from other hosts too.
    is_swarm: bool = False
    #: Its backend does not verify whom it speaks to (`insecure`).
    insecure: bool = False
    #: Its file is this service's own, and never changes: it may be read where it is.
    private: bool = False
    #: Where its bytes have failed a check: what of them is right, for another round.
    again: Candidate | None = None
    #: The service's store that it is in, where that is known.
    store: str | None = None


class HandedOver(TransferError):
    """A candidate has handed out all that it can, and the next goes on: neither has failed."""

    retryable = False


def insecurity(candidates: Sequence[Candidate], served: Mapping[str, int]) -> dict[str, bool]:
    """An entry for the evidence that no check makes: a server was not authenticated.

    The backend itself counts, also where the bytes came from elsewhere: it had the record.
    """
    insecure = candidates[-1].insecure or any(c.insecure and c.ref in served for c in candidates)
    return {"insecure": True} if insecure else {}
