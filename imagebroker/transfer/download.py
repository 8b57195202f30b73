"""One download, composed: each layer is one object here, from the candidates to the destination."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imagebroker.config.tuning import Tuning
from imagebroker.exceptions import ImageBrokerError, VerificationError
from imagebroker.model.image import Image
from imagebroker.redaction import shown_fields
from imagebroker.transfer.account import Account
from imagebroker.transfer.demands import Demands
from imagebroker.transfer.fetch import events
from imagebroker.transfer.fetch.candidates import Candidate, insecurity
from imagebroker.transfer.fetch.events import Content, Event
from imagebroker.transfer.fetch.fetch import Fetch
from imagebroker.transfer.fetch.versions import Joining
from imagebroker.transfer.layers.cached import CacheLayer
from imagebroker.transfer.layers.decompression import Decompressed
from imagebroker.transfer.layers.single_flight import SingleFlight
from imagebroker.transfer.layers.verified import Verified
from imagebroker.transfer.limits import Watch
from imagebroker.transfer.reader import VerifiedStream
from imagebroker.transfer.second_chance import SecondChance
from imagebroker.transfer.store.destinations import AtPath, Destination

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Download:
    """What a successful download was."""

    #: None if it went into a file object.
    path: Path | None
    #: Bytes.
    size: int
    image: Image
    #: The ref of the location that served it, or most of it.
    source: str
    #: What was computed over the stored bytes, and `checked_against`.
    evidence: dict[str, Any] = field(default_factory=dict)
    attempts: int = 1
    #: The byte at which the last resumed attempt went on; None if none did.
    resumed_from: int | None = None
    seconds: float = 0.0
    #: Bytes that each location sent, by its ref.
    served: dict[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        return shown_fields(self)


@dataclass(frozen=True)
class Transfer:
    """What one call wants: where the bytes can be had, what must hold for them, and its limits."""

    #: The last one is the backend itself.
    candidates: Sequence[Candidate]
    demands: Demands
    watch: Watch
    tuning: Tuning
    #: What is unpacked on the way: a kind, or `auto`.
    decompress: str | None = None


def download(
    transfer: Transfer,
    destination: Destination,
    flight: SingleFlight | None = None,
    cache: CacheLayer | None = None,
) -> Download:
    """From the outside in: the cache, single flight, then one transfer.

    Each of them is optional, and leads to the next where it cannot help.
    """
    if flight is None or not isinstance(destination, AtPath):
        return _transferred(transfer, destination)[0]
    found = cache.find(transfer.demands) if cache is not None else None
    if cache is not None and found is not None:
        copy = replace(
            transfer,
            candidates=[cache.candidate(found)],
            demands=cache.demands(transfer.demands, found),
        )
        with closing(found):
            try:
                return _transferred(copy, destination)[0]
            except ImageBrokerError as error:
                cache.failed(error, found, transfer.watch)
                destination.rewind()
    shared = replace(transfer, candidates=flight.candidates(transfer.candidates))
    done, account = _transferred(shared, destination, flight)
    if cache is not None and not account.cloned:
        cache.keep(destination.part, done.size, done.evidence, done.image)
    return done


def _transferred(
    transfer: Transfer, destination: Destination, flight: SingleFlight | None = None
) -> tuple[Download, Account]:
    """Fetch, verify and store; commit when every check has passed.

    If the bytes are not what they must be, and some came from a location, an earlier process, a
    cache, another transfer or servers with different versions, all are dropped and the backend
    itself is asked.
    """
    demands, watch = _demands(transfer), transfer.watch
    candidates = [destination.guarded(each) for each in transfer.candidates]
    account, second_chance = Account(), SecondChance()
    known = demands.of_record(watch.check)  # what cannot be verified opens no candidate
    while True:
        with closing(
            Fetch(
                candidates, demands, watch, transfer.tuning, required=known,
                joining=second_chance.joining, any_order=destination.any_order,
                start=destination.first_missing(demands),
            )
        ) as fetch:  # fmt: skip
            received = destination.receive(fetch, lambda fetch: in_order(fetch, transfer))
            listeners: list[Callable[[Event], None]] = [account.note]
            if flight is not None and isinstance(destination, AtPath):
                listeners.append(flight.announcer(fetch.required, destination.part))
            try:
                events.run(received, *listeners)
                if flight is not None and account.secondhand:
                    flight.confirm(account.evidence)
            except VerificationError as error:
                if not second_chance.allows(error, account):
                    raise
                if flight is not None:
                    flight.begins_again()
                if not destination.rewind():
                    raise
                LOG.warning("%s; asking the backend itself, from the beginning", error)
                account.begin_round()
                candidates = candidates[-1:]
                continue
        watch.report("verify", always=True)
        if flight is not None:
            flight.verified(account.evidence)
        destination.commit()
        watch.report("done", always=True)
        return Download(
            destination.path, destination.size,
            account.shown(demands.record or account.image or fetch.image), account.source,
            account.evidence | insecurity(candidates, account.served), account.attempts,
            account.resumed_from, watch.seconds, account.served,
        ), account  # fmt: skip


def in_order(fetch: Fetch, transfer: Transfer) -> Content:
    """The layers above a fetch for whatever takes bytes in order: verification, decompression."""
    content: Content = Verified(fetch, transfer.watch)
    if transfer.decompress is not None:
        formats = transfer.demands.formats
        content = Decompressed(content, transfer.decompress, formats, transfer.watch)
    return content


def _demands(transfer: Transfer) -> Demands:
    """Of what arrives: where that is unpacked, its content is judged behind the decoder."""
    if transfer.decompress is None:
        return transfer.demands
    return replace(transfer.demands, formats=None, unpacks=True)


def opened(
    transfer: Transfer,
    joining: Joining = Joining(),  # noqa: B008 - it is frozen
) -> VerifiedStream:
    """The same layers without a destination, for a reader."""
    demands, watch = _demands(transfer), transfer.watch
    known = demands.of_record(watch.check)
    fetch = Fetch(
        transfer.candidates, demands, watch, transfer.tuning, required=known, joining=joining
    )
    try:
        content = in_order(fetch, transfer)
    except BaseException:
        fetch.close()
        raise
    image = demands.record or fetch.image
    return VerifiedStream(fetch, content, image, transfer.candidates, watch)
