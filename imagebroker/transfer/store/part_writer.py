"""Bytes into a part file, in whatever order they come, and through the checks in theirs."""

from __future__ import annotations

import hashlib
from time import monotonic
from typing import Any

from imagebroker.backends.backend import Buffer
from imagebroker.transfer.fetch.retry import Incoming
from imagebroker.transfer.layers.single_flight import Share
from imagebroker.transfer.limits import Watch
from imagebroker.transfer.ranges import ENDLESS, Range, gaps
from imagebroker.transfer.store.in_order import InOrder
from imagebroker.transfer.store.journal import Journal, spelled
from imagebroker.transfer.store.part_file import INTERRUPTED, PartFile
from imagebroker.verify.checks import Required

#: Seconds between two notes for a later process.
_NOTE_EVERY = 1.0


class Storing:
    """One image on its way into a part file."""

    def __init__(
        self, incoming: Incoming, required: Required, part: PartFile, watch: Watch, share: Share
    ) -> None:
        self._incoming, self._required = incoming, required
        self._part, self._watch, self._share = part, watch, share
        #: Whether bytes of an earlier process are there that only the digest of the whole proves.
        self.doubtful = False
        self._located_before = False

    def _start(self, position: int = 0) -> None:
        self._checks = self._required.start(self._incoming.image.size)
        self._fed = InOrder(self._part, self._checks, position)

    def run(self) -> dict[str, Any]:
        """All of it; what was computed over the bytes.

        :raises VerificationError: they are not what they must be.
        """
        incoming, part = self._incoming, self._part
        self._begun, self._noted = incoming.begun, monotonic()
        self._start()
        try:
            self._take_up()
            part.reserve(incoming.left)
            part.preallocate(incoming.image.size or 0)
            self._share.begin(incoming.image, self._required, part)
            incoming.any_order = True
            for offset, chunk in incoming:
                if incoming.begun != self._begun:
                    self._begin_again()
                if incoming.versions.joined:
                    self._share.withdraw()
                self._store(offset, chunk)
            if incoming.begun != self._begun:
                self._begin_again()
            self._fed.finish(self._waiting)
            part.flush()
            self._share.stored(self._fed.position)
            return self._checks.evidence()
        except INTERRUPTED:
            self._note_rest()
            raise
        finally:
            self._end()

    def _store(self, offset: int, chunk: Buffer) -> None:
        self._part.write(offset, chunk)
        self._fed.stored(offset, chunk)
        self._share.stored(self._part.in_file(self._fed.position))
        if monotonic() - self._noted > _NOTE_EVERY:
            self._note()

    def _waiting(self) -> None:
        self._watch.check()
        self._watch.report("verify")

    def _begin_again(self) -> None:
        """What is stored, and what was fed, belongs to an attempt that is void."""
        self._begun = self._incoming.begun
        self._end()
        self._part.rewind()
        self._part.preallocate(self._incoming.image.size or 0)
        self.doubtful = self._located_before = False
        self._start()

    def _end(self) -> None:
        self._fed.stop()
        self._checks.close()

    # -- across processes ------------------------------------------------------------------------

    def _take_up(self) -> None:
        """Go on with what an earlier process stored, if it belongs to this very image.

        It is read and hashed again: damage is found, and the digest of the whole needs it anyway.
        """
        kept, incoming = self._part.kept, self._incoming
        if kept is None:
            return
        size = incoming.image.size
        early = [(start, stop) for start, stop, _ in kept.early]
        missing = gaps([(0, kept.stored), *early], ENDLESS if size is None else size)
        belongs = kept.continues(
            incoming.version, size, self._required.checksums
        ) and self._share.entitlement.may_resume(
            kept.resource, kept.version, incoming.version, complete=not missing,
            digest=kept.shares_digest(self._required.checksums),
        )  # fmt: skip
        if belongs and incoming.may_leave_out(missing):
            if self._is_intact(kept):
                self._part.clear(missing)
                for start, stop in early:
                    self._fed.has(start, stop)
                self._located_before = kept.located
                same = kept.version is not None and kept.version == incoming.version
                hashed = all(digest for _, _, digest in kept.early)
                self.doubtful = kept.located or not (same and hashed)
                if not same:
                    incoming.versions.joined = True
                return
            incoming.may_leave_out([(0, ENDLESS if size is None else size)])
        self._begin_again()

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
        """What `kill -9` shall not undo; never waits for the hash."""
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
        """All that is there, with the digests that prove it."""
        if not self._part.keeps:
            return
        if self._incoming.resumes is False:
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
        incoming = self._incoming
        if incoming.resumes is False:
            return
        located = self._located_before or incoming.located
        self._part.note(
            Journal(
                incoming.version, incoming.image.size, spelled(self._required.checksums),
                stored, digests, _joined(early), located, self._share.entitlement.noted,
                bool(incoming.resumes),
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
