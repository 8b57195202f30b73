"""Stores an image in whatever order its bytes come, and runs the checks in theirs.

It resumes what an earlier process left, and records in the journal what a later one may use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import closing
from time import monotonic
from typing import Any

from imagebroker.config.tuning import Tuning
from imagebroker.exceptions import ChecksumMismatch, DestinationError, ImageBrokerError
from imagebroker.transfer.fetch.events import (
    Attempt,
    Checked,
    Chunk,
    Cloned,
    Event,
    Events,
    LocalFile,
    Received,
    Restart,
    Resumability,
    Stored,
    TakenUp,
)
from imagebroker.transfer.fetch.fetch import Fetch
from imagebroker.transfer.layers.entitlement import Entitlement
from imagebroker.transfer.limits import Watch
from imagebroker.transfer.ranges import ENDLESS, Range, gaps
from imagebroker.transfer.store.clone import LocalImage
from imagebroker.transfer.store.in_order import InOrder
from imagebroker.transfer.store.journal import Journal, spelled
from imagebroker.transfer.store.part_file import INTERRUPTED, PartFile
from imagebroker.transfer.store.storage import Storage


class PartWriter:
    """One fetch on its way into a part file or a device."""

    def __init__(
        self,
        fetch: Fetch,
        part: Storage,
        entitlement: Entitlement,
        watch: Watch,
        tuning: Tuning,
    ) -> None:
        self._fetch, self._required = fetch, fetch.required
        self._part, self._watch = part, watch
        self._entitlement, self._tuning = entitlement, tuning
        self._resumability = fetch.resumability
        # Whether any of the stored bytes came from a location instead of the backend itself.
        self._located = self._has_room = False
        self._noted = monotonic()

    def _start(self, position: int = 0) -> None:
        self._checks = self._required.start(self._fetch.image.size, self._part.new_hash)
        self._fed = InOrder(self._part, self._checks, position)

    def _end(self) -> None:
        self._fed.stop()
        self._checks.close()

    def events(self) -> Events:
        """Store all of it: `Stored` for each chunk. Other events are handed on as they come, a
        `Restart` before anything is dropped.

        :raises VerificationError: the bytes are not what they must be.
        """
        self._start()
        try:
            missing, mixed = yield from self._take_up()
            with closing(self._fetch.events(missing, mixed=mixed)) as events:
                for event in events:
                    if isinstance(event, Chunk):
                        self._store(event)
                        yield Stored(self._part.in_file(self._fed.position))
                        continue
                    yield event
                    if not isinstance(event, LocalFile):
                        self._take(event)
                        continue
                    file = self._part.file
                    if file is not None and (yield from self._clone(event, file)):
                        return
            self._fed.finish(self._waiting)
            self._part.flush()
            yield Stored(self._fed.position)
            yield Checked(self._checks.evidence())
        except (*INTERRUPTED, GeneratorExit):
            self._note_rest()
            raise
        finally:
            self._end()

    def _take(self, event: Event) -> None:
        if isinstance(event, Restart):
            self._begin_again()
        elif isinstance(event, Resumability):
            self._resumability = event
        elif isinstance(event, Attempt) and not (self._has_room or self._is_cloned):
            self._part.reserve(self._fetch.left)
            self._part.preallocate(self._fetch.image.size or 0)
            self._has_room = True

    @property
    def _is_cloned(self) -> bool:
        """Whether a file of this host is copied as a whole, which makes room for itself."""
        return self._fetch.is_local and self._part.file is not None

    def _store(self, chunk: Chunk) -> None:
        self._located = self._located or chunk.candidate.is_location
        self._part.write(chunk.offset, chunk.data)
        self._fed.stored(chunk.offset, chunk.data)
        if monotonic() - self._noted > self._tuning.journal_every:
            self._note()

    def _waiting(self) -> None:
        self._watch.check()
        self._watch.report("verify")

    def _begin_again(self) -> None:
        """The attempt is void: discard what was stored and hashed."""
        self._end()
        self._part.rewind()
        if self._has_room:
            self._part.preallocate(self._fetch.image.size or 0)
        self._located = False
        self._start()

    # -- files of this host ----------------------------------------------------------------------

    def _clone(self, event: LocalFile, part: PartFile) -> Generator[Event, None, bool]:
        """Copy a file of this host; False if it cannot be read, and another candidate goes on."""
        fetch = self._fetch
        if part.size:
            yield Restart()  # copying is faster than looking at what was kept
            part.rewind()
        try:
            with closing(LocalImage(event.source)) as file:
                yield Received(event.candidate, file.size)
                evidence = self._copied(file, part)
                yield Cloned()
                yield Checked(evidence)
                return True
        except ChecksumMismatch:
            raise
        except ImageBrokerError as error:
            if not fetch.give_up(error):
                raise
            yield Restart()
            self._begin_again()
            return False

    def _copied(self, file: LocalImage, part: PartFile) -> dict[str, Any]:
        """Copied by the kernel; what has landed is read back behind the copy, and only where a
        digest needs it."""
        watch, required = self._watch, self._required
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

        try:
            file.clone_into(part, copied, step=watch.rules.rate_limit)
            evidence = self._inspected(part)
            if required.covers_all:
                fed.finish(self._waiting)
                evidence |= checks.evidence()
            return evidence
        finally:
            fed.stop()
            checks.close()

    def _inspected(self, part: PartFile) -> dict[str, Any]:
        part.set_size()
        try:
            return self._required.inspected(part.fileno(), part.size)
        except OSError as error:
            raise DestinationError.wrap(error, f"cannot read back {part.shown!r}") from error

    # -- across processes ------------------------------------------------------------------------

    def _take_up(self) -> Generator[Event, None, tuple[list[Range] | None, bool]]:
        """Go on with what an earlier process stored, if it belongs to this very image: what is
        missing then, None if all is; and whether it may be of another version.

        It is read and hashed again: damage is found, and the digest of the whole needs it anyway.
        """
        kept, fetch = self._part.kept, self._fetch
        if kept is None or fetch.is_local:
            return None, False
        size, checksums = fetch.image.size, self._required.checksums
        early = [(start, stop) for start, stop, _ in kept.early]
        missing = gaps([(0, kept.stored), *early], ENDLESS if size is None else size)
        belongs = kept.continues(fetch.version, size, checksums) and self._entitlement.may_resume(
            kept.resource, kept.version, fetch.version, complete=not missing,
            digest=kept.shares_digest(checksums),
        )  # fmt: skip
        if not (belongs and fetch.may_resume and self._is_intact(kept)):
            yield Restart()
            self._begin_again()
            return None, False
        self._part.clear(missing)
        for start, stop in early:
            self._fed.has(start, stop)
        self._located = kept.located
        same = kept.version is not None and kept.version == fetch.version
        hashed = all(digest for _, _, digest in kept.early)
        yield TakenUp(doubtful=kept.located or not (same and hashed))
        return missing, not same

    def _is_intact(self, kept: Journal) -> bool:
        """Whether what is stored is what the journal says; the checks are fed with it."""
        self._end()
        self._start(kept.stored)
        for chunk in self._part.read_back(0, kept.stored):
            self._waiting()
            self._checks.feed(chunk)
        if kept.stored and self._checks.prefix() != kept.digests:
            return False
        return all(
            self._digest(start, stop) == digest if digest else self._required.covers_all
            for start, stop, digest in kept.early
        )

    def _digest(self, start: int, stop: int) -> str:
        hasher = hashlib.sha256()
        for chunk in self._part.read_back(start, stop):
            hasher.update(chunk)
        return hasher.hexdigest()

    def _note(self) -> None:
        """Write the journal, so that `kill -9` loses little; never waits for the hash."""
        self._noted = monotonic()
        hashed = self._checks.snapshot()
        if hashed is None or not self._part.keeps:
            return
        early: list[Range] = []
        if self._required.covers_all:
            position = self._fed.position
            early = [(hashed[0], position)] if hashed[0] < position else []
            early += self._fed.early
        self._write_note(hashed[0], hashed[1], [(start, stop, "") for start, stop in early])

    def _note_rest(self) -> None:
        """Write all stored ranges into the journal, with the digests that prove them."""
        if not self._part.keeps:
            return
        if self._resumability.possible is False:
            self._part.forget()
            return
        self._fed.stop()
        prefix = self._fed.position, self._checks.prefix()
        proven = self._required.covers_all
        early = [
            (start, stop, "" if proven else self._digest(start, stop))
            for start, stop in self._fed.early
        ]
        self._write_note(*prefix, early)

    def _write_note(
        self, stored: int, digests: dict[str, str], early: list[tuple[int, int, str]]
    ) -> None:
        now = self._resumability
        if now.possible is False:
            return
        self._part.note(
            Journal(
                now.version, self._fetch.image.size, spelled(self._required.checksums),
                stored, digests, _joined(early), self._located, self._entitlement.noted,
                bool(now.possible),
            )
        )  # fmt: skip


def _joined(ranges: list[tuple[int, int, str]]) -> tuple[tuple[int, int, str], ...]:
    """Adjacent ranges without a digest of their own are one."""
    found: list[tuple[int, int, str]] = []
    for start, stop, digest in sorted(ranges):
        if found and not digest and not found[-1][2] and found[-1][1] >= start:
            found[-1] = found[-1][0], max(stop, found[-1][1]), ""
        else:
            found.append((start, stop, digest))
    return tuple(found)
