"""One download, composed: each layer is one object here, from the candidates to the destination."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagebroker.exceptions import ImageBrokerError, VerificationError
from imagebroker.model.image import Image
from imagebroker.redaction import shown_fields
from imagebroker.transfer.account import Account
from imagebroker.transfer.fetch.candidates import insecurity
from imagebroker.transfer.fetch.events import Content, Restart
from imagebroker.transfer.fetch.fetch import Fetch
from imagebroker.transfer.fetch.versions import Joining
from imagebroker.transfer.layers.present import UNKNOWN, Found, Presence
from imagebroker.transfer.layers.single_flight import ALONE, Flying
from imagebroker.transfer.layers.verified import Verified
from imagebroker.transfer.reader import VerifiedStream
from imagebroker.transfer.second_chance import SecondChance
from imagebroker.transfer.store.destinations import Destination
from imagebroker.transfer.transfer import Transfer

if TYPE_CHECKING:
    from imagebroker.transfer.layers.cached import CacheLayer
    from imagebroker.transfer.layers.swarm import SwarmLayer

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Download:
    """The result of a successful download."""

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
    #: From where the bytes came: "backend", "location", "shared" (another download that was
    #: running on this host), "swarm" (a share from the backend, the rest from other hosts) or
    #: "cache"; "present": they were at the path already, and nothing was fetched.
    via: str = "backend"
    #: The service's store that `source` is in, where that is known.
    store: str | None = None

    def __repr__(self) -> str:
        return shown_fields(self)


def download(
    transfer: Transfer,
    destination: Destination,
    flight: Flying = ALONE,
    cache: CacheLayer | None = None,
    present: Presence = UNKNOWN,
    swarm: SwarmLayer | None = None,
) -> Download:
    """An up-to-date destination, the cache, single flight, and one transfer: each is the fallback
    of the one before.

    A further layer around a transfer is a line here, and a further source of bytes a candidate.
    """
    if (found := present.find(transfer)) is not None:
        return _up_to_date(found, destination, transfer)
    if cache is not None and (cached := cache.find(transfer.demands)) is not None:
        with closing(cached):
            try:
                copying = cache.copying(transfer, cached)
                copied = _transferred(copying, destination, ALONE, present)[0]
                return replace(copied, via="cache")
            except ImageBrokerError as error:
                cache.failed(error, cached, transfer.watch)
                destination.rewind()
    shared = transfer._replace(candidates=flight.candidates(transfer.candidates))
    if swarm is not None:
        shared = swarm.around(shared)
    done, account = _transferred(shared, destination, flight, present)
    if cache is not None and not account.cloned:
        cache.keep(destination.part, done.evidence, done.image)
    if swarm is not None:
        done = replace(done, evidence={**done.evidence, **swarm.verified()})
    return done


def _up_to_date(found: Found, destination: Destination, transfer: Transfer) -> Download:
    transfer.watch.report("done", always=True)
    return Download(
        destination.path, found.size, found.image, transfer.candidates[-1].ref, found.evidence,
        attempts=0, seconds=transfer.watch.seconds, via="present",
    )  # fmt: skip


def _transferred(
    transfer: Transfer, destination: Destination, flight: Flying, present: Presence
) -> tuple[Download, Account]:
    """Fetch, verify and store; commit when every check has passed.

    If the bytes are not what they must be, and some came from a location, an earlier process, a
    cache, another transfer or servers with different versions, all are dropped and the backend
    itself is asked.
    """
    account, second_chance = Account(), SecondChance()
    candidates = list(map(destination.guarded, transfer.candidates))
    known = transfer.demands.of_record(transfer.watch.check)  # else no candidate is opened
    while True:
        with closing(
            Fetch(
                candidates, transfer.demands, transfer.watch, transfer.tuning, required=known,
                joining=second_chance.joining, any_order=destination.any_order,
                start=destination.first_missing(transfer.demands),
            )
        ) as fetch:  # fmt: skip
            if not account.attempts and (found := present.find_record(fetch, transfer)) is not None:
                return _up_to_date(found, destination, transfer), account
            announce = flight.announcer(fetch.required, destination.part)
            try:
                received = destination.receive(fetch, lambda fetch: in_order(fetch, transfer))
                with closing(received) as events:
                    for event in events:
                        account.note(event)
                        announce(event)
                if account.secondhand:
                    flight.confirm(account.evidence)
                break
            except VerificationError as error:
                if not second_chance.allows(error, account):
                    raise
                announce(Restart())
                if not destination.rewind():
                    raise
                account.begin_round()
                again = [each.again for each in candidates if each.again is not None]
                candidates = [*again, candidates[-1]]
                what = "to find the wrong bytes" if again else "from the beginning"
                LOG.warning("%s; asking the backend itself, %s", error, what)
    transfer.watch.report("verify", always=True)
    flight.verified(account.evidence)
    image = account.shown(transfer.demands.record or account.image or fetch.image)
    present.note(image, account.evidence)
    destination.commit()
    transfer.watch.report("done", always=True)
    source = account.source
    evidence = account.evidence | insecurity(candidates, account.served)
    return Download(
        destination.path, destination.size, image, source, evidence, account.attempts,
        account.resumed_from, transfer.watch.seconds, account.served, account.via,
        account.stores.get(source),
    ), account  # fmt: skip


def in_order(fetch: Fetch, transfer: Transfer) -> Content:
    """The bytes in order: verification above the fetch, then decompression."""
    content: Content = Verified(fetch, transfer.watch)
    if transfer.decompress is not None:
        from imagebroker.transfer.layers.decompression import Decompressed  # few calls do

        content = Decompressed(
            content, transfer.decompress, fetch.required, transfer.formats, transfer.watch
        )
    return content


def opened(
    transfer: Transfer,
    joining: Joining = Joining(),  # noqa: B008 - it is frozen
) -> VerifiedStream:
    """The same layers without a destination, for a reader."""
    demands, watch = transfer.demands, transfer.watch
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
