"""One download, top down: try the places in order, store, verify, commit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from imagebroker.exceptions import (
    BackendError,
    DestinationError,
    ImageBrokerError,
    TransferError,
)
from imagebroker.image import Image
from imagebroker.transfer.file_object import FileObject
from imagebroker.transfer.in_order import InOrder
from imagebroker.transfer.incoming import Incoming
from imagebroker.transfer.journal import Journal
from imagebroker.transfer.local import LocalFile
from imagebroker.transfer.part_file import PartFile
from imagebroker.transfer.places import FINAL, Demands, Place
from imagebroker.transfer.rules import Watch
from imagebroker.transfer.stream import Stream
from imagebroker.verify.checks import Checks, Required

LOG = logging.getLogger(__name__)

#: Seconds between two notes for a later process.
_NOTE_EVERY = 1.0
#: What may break a transfer that a later one goes on with.
_INTERRUPTED = (TransferError, BackendError, KeyboardInterrupt, SystemExit)


@dataclass(frozen=True)
class Download:
    """What a successful download was."""

    #: None if it went into a file object.
    path: Path | None
    #: Bytes.
    size: int
    image: Image
    #: The ref of the location that served it.
    source: str
    #: What was computed over the stored bytes, and `checked_against`.
    evidence: dict[str, Any] = field(default_factory=dict)
    attempts: int = 1
    #: The byte at which the last resumed attempt went on; None if none did.
    resumed_from: int | None = None
    seconds: float = 0.0


def to_path(
    places: Sequence[Place], demands: Demands, part: PartFile, watch: Watch, path: Path
) -> Download:
    """Store the image in `part` from the first place that can, and commit it when verified.

    The last place is the backend itself: its errors are the caller's. Those of a location before
    it are logged, and everything that came from locations is dropped.
    """
    attempts = 0
    known = demands.of_record(watch.check)
    for left, place in enumerate(places, start=1 - len(places)):
        watch.location = place.ref
        try:
            with closing(Incoming(place.open, watch)) as incoming:
                required = known or demands.for_image(incoming.image, watch.check)
                evidence = _store(incoming, required, part, watch)
        except ImageBrokerError as error:
            if left == 0 or isinstance(error, FINAL):
                raise
            LOG.warning("the location %s failed, trying the next: %s", place.ref, error)
            part.rewind()
            continue
        watch.report("verify", always=True)
        part.commit()
        watch.report("done", always=True)
        return Download(
            path, part.size, demands.record or incoming.image, place.ref, evidence,
            attempts + incoming.attempts, incoming.resumed_from, watch.seconds,
        )  # fmt: skip
    raise AssertionError("a download has at least one place")


def _store(incoming: Incoming, required: Required, part: PartFile, watch: Watch) -> dict[str, Any]:
    """Bytes into the part file, and what was computed over them."""
    incoming.covered = required.covers_all
    incoming.check_claims(demanded=required.covers_all)
    if incoming.local is not None:
        if part.size:
            part.rewind()  # copying here is faster than looking at what was kept
        with closing(LocalFile(incoming.local)) as file:
            return _clone(file, required, part, watch)
    part.reserve((incoming.image.size or 0) - part.size)
    checks = _take_up(incoming, required, part, watch)
    fed = InOrder(part, checks)
    fed.position = part.size
    incoming.any_order = True
    noted = monotonic()
    try:
        for offset, chunk in incoming:
            if offset == 0 and part.size:
                checks.close()  # what was fed belongs to an attempt that is void
                checks = required.start(incoming.image.size)
                fed = InOrder(part, checks)
                part.rewind()
            part.write(offset, chunk)
            fed.stored(offset, chunk)
            if monotonic() - noted > _NOTE_EVERY and (hashed := checks.snapshot()) is not None:
                part.note(Journal.of(incoming.image, required.checksums, *hashed))
                noted = monotonic()
        return checks.evidence()
    except _INTERRUPTED:
        part.note(Journal.of(incoming.image, required.checksums, fed.position, checks.prefix()))
        raise
    finally:
        checks.close()


def _take_up(incoming: Incoming, required: Required, part: PartFile, watch: Watch) -> Checks:
    """Checks that were fed what an earlier process stored, if that belongs to this very image.

    It is read and hashed again: damage is found, and the digest of the whole needs it anyway.
    """
    kept, checks = part.kept, required.start(incoming.image.size)
    if kept is None:
        return checks
    if kept.continues(incoming.image, required.checksums) and incoming.may_begin_at(kept.stored):
        for chunk in part.read_back(0, part.size):
            watch.check()
            watch.report("verify")
            checks.feed(chunk)
        if checks.prefix() == kept.digests:
            return checks
        incoming.may_begin_at(0)
    checks.close()
    part.rewind()
    return required.start(incoming.image.size)


def _clone(file: LocalFile, required: Required, part: PartFile, watch: Watch) -> dict[str, Any]:
    """A local file: copied by the kernel; what landed is read back only where a digest needs it."""
    part.reserve(file.allocated)

    def copied(done: int) -> None:
        watch.done = done
        watch.check()
        watch.report("transfer")

    watch.total = file.size
    file.clone_into(part, copied)
    evidence = _inspect(required, part)
    if not required.covers_all:
        return evidence
    checks = required.without_formats().start(part.size)
    try:
        for chunk in part.read_back(0, part.size):
            watch.check()
            watch.report("verify")
            checks.feed(chunk)
        return evidence | checks.evidence()
    finally:
        checks.close()


def _inspect(required: Required, part: PartFile) -> dict[str, Any]:
    part.set_size()
    try:
        return required.inspected(part.fileno(), part.size)
    except OSError as error:
        raise DestinationError.wrap(error, f"cannot read back {part.shown!r}") from error


def to_file_object(
    places: Sequence[Place], demands: Demands, target: FileObject, watch: Watch
) -> Download:
    """Write the image into the caller's object, in order."""
    with closing(Stream(places, demands, watch)) as stream:
        for chunk in stream:
            target.write(chunk)
        target.commit()
        return Download(
            None, target.size, stream.image, stream.source, stream.evidence,
            stream.attempts, stream.resumed_from, watch.seconds,
        )  # fmt: skip
