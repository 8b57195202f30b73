"""One download, top down: try the places in order, store, verify, commit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imagebroker.backends.boundary import OpenedSource
from imagebroker.exceptions import (
    ChecksumMismatch,
    CompressionError,
    DestinationError,
    ImageBrokerError,
    VerificationError,
)
from imagebroker.model.image import Image
from imagebroker.redaction import shown_fields
from imagebroker.transfer.fetch.candidates import Demands, Place, Waiting, caveats
from imagebroker.transfer.fetch.retry import Incoming
from imagebroker.transfer.fetch.versions import Retrial
from imagebroker.transfer.layers.decompression import opened
from imagebroker.transfer.layers.single_flight import Share
from imagebroker.transfer.limits import Watch
from imagebroker.transfer.store.clone import LocalFile
from imagebroker.transfer.store.file_object import FileObject
from imagebroker.transfer.store.in_order import InOrder
from imagebroker.transfer.store.journal import Journal
from imagebroker.transfer.store.part_file import PartFile
from imagebroker.transfer.store.part_writer import Storing
from imagebroker.verify.checks import Required

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


def to_path(
    places: Sequence[Place],
    demands: Demands,
    part: PartFile,
    watch: Watch,
    path: Path,
    share: Share,
) -> Download:
    """Store the image in `part`, and commit it when verified.

    The last place is the backend itself. If the bytes are not what they must be, and some came from
    a location, an earlier process, a cache, another transfer or servers with different versions,
    all are dropped and the backend itself is asked.
    """
    attempts, retrial = 0, Retrial()
    known = demands.of_record(watch.check)  # what cannot be verified opens no place
    while True:
        start = _first_missing(part.kept, demands)
        with closing(Incoming(places, watch, demands.record, retrial.joining, start)) as incoming:
            required = known or demands.for_image(incoming.image, watch.check)
            storing = Storing(incoming, required, part, watch, share)
            try:
                evidence = _store(incoming, required, storing, part, watch, share)
                if incoming.secondhand:
                    share.confirm(evidence)
            except VerificationError as error:
                mixed = isinstance(error, ChecksumMismatch) and (
                    incoming.located or storing.doubtful
                )
                if not (retrial.allows(error, incoming.versions) or mixed or incoming.secondhand):
                    raise
                LOG.warning("%s; asking the backend itself, from the beginning", error)
                attempts += incoming.attempts
                places = places[-1:]
                part.rewind()
                continue
        watch.report("verify", always=True)
        share.verified(evidence)
        part.commit()
        watch.report("done", always=True)
        return Download(
            path, part.size, incoming.versions.shown(demands.record or incoming.image),
            incoming.source,
            evidence | caveats(places, incoming.served), attempts + incoming.attempts,
            incoming.resumed_from, watch.seconds, incoming.served,
        )  # fmt: skip


def _first_missing(kept: Journal | None, demands: Demands) -> int:
    """The byte that a transfer will begin with, if it goes on with what an earlier one left."""
    if kept is None or kept.size is None:
        return 0
    sure = kept.version is not None or kept.shares_digest(demands.checksums)
    return min(kept.stored, kept.size - 1) if sure else 0


def _store(
    incoming: Incoming,
    required: Required,
    storing: Storing,
    part: PartFile,
    watch: Watch,
    share: Share,
) -> dict[str, Any]:
    """Bytes into the part file, and what was computed over them."""
    incoming.covered, incoming.proven = required.covers_all, required.proves_all
    incoming.check_claims(demanded=required.covers_all)
    while incoming.local is not None:
        share.copied()
        if part.size:
            part.rewind()  # copying here is faster than looking at what was kept
        try:
            with closing(LocalFile(incoming.local)) as file:
                incoming.served = {incoming.source: file.size}
                return _clone(file, required, part, watch)
        except ChecksumMismatch:
            raise
        except ImageBrokerError as error:
            incoming.give_up_place(error)
            part.rewind()
            incoming.reopen()
    return storing.run()


def _clone(file: LocalFile, required: Required, part: PartFile, watch: Watch) -> dict[str, Any]:
    """A local file: copied by the kernel; what has landed is read back behind the copy, and only
    where a digest needs it."""
    part.reserve(file.allocated)
    checks = required.without_formats().start(file.size)
    fed = InOrder(part, checks)
    watch.total, watch.done = file.size, 0

    def copied(done: int, moved: int) -> None:
        if required.covers_all:
            fed.has(watch.done, done)
        watch.done = done
        watch.check()
        watch.report("transfer")
        watch.pace(moved)

    def waiting() -> None:
        watch.check()
        watch.report("verify")

    try:
        file.clone_into(part, copied, step=watch.rules.rate_limit)
        evidence = _inspect(required, part)
        if required.covers_all:
            fed.finish(waiting)
            evidence |= checks.evidence()
        return evidence
    finally:
        fed.stop()
        checks.close()


def _inspect(required: Required, part: PartFile) -> dict[str, Any]:
    part.set_size()
    try:
        return required.inspected(part.fileno(), part.size)
    except OSError as error:
        raise DestinationError.wrap(error, f"cannot read back {part.shown!r}") from error


def to_file_object(
    places: Sequence[Place],
    demands: Demands,
    target: FileObject,
    watch: Watch,
    decompress: str | None = None,
) -> Download:
    """Write the image, or what is in it, into the caller's object, in order.

    If a location sent other bytes, or servers with different versions did, and the object can go
    back, the backend itself is asked.
    """
    attempts, retrial = 0, Retrial()
    places = [_elsewhere(place, target) for place in places]
    while True:
        with closing(opened(places, demands, watch, decompress, retrial.joining)) as stream:
            try:
                for chunk in stream:
                    target.write(chunk)
            except VerificationError as error:
                located = stream.located and isinstance(error, ChecksumMismatch)
                again = retrial.allows(error, stream.versions) or located
                if not (again and target.rewind()):
                    raise
                LOG.warning("%s; asking the backend itself, from the beginning", error)
                attempts += stream.attempts
                places = places[-1:]
                continue
            target.commit()
            return Download(
                None, target.size, stream.image, stream.source, stream.evidence,
                attempts + stream.attempts, stream.resumed_from, watch.seconds, stream.served,
            )  # fmt: skip


def _elsewhere(place: Place, target: FileObject) -> Place:
    """The place, if what it opens is not `target` itself: else the bytes would never end."""

    def opened(left: float, waiting: Waiting) -> OpenedSource:
        source = place.open(left, waiting)
        if target.is_file(source.local_path):
            source.close()
            raise DestinationError(
                f"{target.shown} is the file that {place.ref} is read from",
                hint="write into another file, and rename it at the end",
            )
        return source

    return replace(place, open=opened)


def in_order_to_path(
    places: Sequence[Place],
    demands: Demands,
    part: PartFile,
    watch: Watch,
    path: Path,
    decompress: str | None,
) -> Download:
    """Store the image, or what is in it, in `part` from the first byte to the last; commit it.

    As where bytes may come in any order, all is dropped when a location sent something else.
    """
    attempts, retrial = 0, Retrial()
    while True:
        with closing(opened(places, demands, watch, decompress, retrial.joining)) as content:
            part.reserve(content.size or 0)
            try:
                for piece in content.verified():
                    part.write(part.size, piece)
            except VerificationError as error:
                wrong = isinstance(error, (ChecksumMismatch, CompressionError))
                again = retrial.allows(error, content.versions)
                if not (again or (content.located and wrong)):
                    raise
                LOG.warning("%s; asking the backend itself, from the beginning", error)
                attempts += content.attempts
                places = places[-1:]
                part.rewind()
                continue
        watch.report("verify", always=True)
        part.commit()
        watch.report("done", always=True)
        return Download(
            path, part.size, content.image, content.source, content.evidence,
            attempts + content.attempts, content.resumed_from, watch.seconds, content.served,
        )  # fmt: skip
