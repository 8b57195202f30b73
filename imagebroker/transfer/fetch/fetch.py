"""The bytes of one image, from the candidates that have it: retry, resume and fall-over."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from time import monotonic, process_time
from typing import TYPE_CHECKING

from imagebroker.backends.opened_source import Flow, OpenedSource
from imagebroker.config.tuning import Tuning
from imagebroker.exceptions import (
    BackendError,
    ImageBrokerError,
    ImageChanged,
    ImageNotFound,
    NotAuthorized,
    RangeIgnored,
    TransferError,
    UnconfirmedEnd,
)
from imagebroker.model.image import Image
from imagebroker.redaction import redact
from imagebroker.system.forks import Condition
from imagebroker.transfer.demands import Demands
from imagebroker.transfer.fetch.candidates import FINAL, Candidate, HandedOver
from imagebroker.transfer.fetch.claims import check_claims, check_coding
from imagebroker.transfer.fetch.events import (
    Attempt,
    Chunk,
    Event,
    LocalFile,
    Mixed,
    Received,
    Restart,
    Resumability,
    VersionMet,
)
from imagebroker.transfer.fetch.known_image import KnownImage
from imagebroker.transfer.fetch.retry import Retries
from imagebroker.transfer.fetch.versions import Circumstances, Joining, Step
from imagebroker.transfer.limits import Watch
from imagebroker.transfer.ranges import ENDLESS, Range, length
from imagebroker.verify.checks import Required

if TYPE_CHECKING:
    from imagebroker.transfer.fetch.range_scheduler import Rest

LOG = logging.getLogger(__name__)

#: Bytes that must have come since the image last seemed to change for that to be forgotten.
_PROGRESS = 64 * 1024
#: Locations that are read at once.
_LOCATIONS_AT_ONCE = 4
#: Seconds from which on it is said how long the next attempt is waited for.
_LONG_PAUSE = 5.0


class Fetch:
    """One image on its way: `events` hands out its bytes, and news about them.

    What is retried: errors of the network and of a service in trouble, never a check, a refusal or
    a change of the image. The middle is asked for only where the source is seekable and something
    proves that both halves are one image: a strong version, or a digest over the whole. When a
    candidate is given up, the next goes on at the missing bytes if a strong digest covers the whole
    and the candidate merely broke; otherwise it begins at byte 0.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        demands: Demands,
        watch: Watch,
        tuning: Tuning,
        *,
        required: Required | None = None,
        joining: Joining = Joining(),  # noqa: B008 - it is frozen
        any_order: bool = False,
        start: int = 0,
    ) -> None:
        """Open the first candidate that can be opened. The last one is the backend itself.

        `required`: what must hold for the bytes, where a record has told it already; else the image
        that is opened does. `any_order`: chunks may come in any order. `start`: the first byte that
        is probably missing.

        :raises: what the last attempt at the last candidate raised; as `Demands.for_image`.
        """
        #: Those that were not given up; the first is being read.
        self._candidates = list(candidates)
        self._own_ref = self._candidates[-1].ref
        self._watch, self._tuning = watch, tuning
        self._any_order, self._start = any_order, start
        record = demands.record
        self._known = KnownImage(
            joining, record.size if record is not None else None, watch.rules.max_size
        )
        self._retries = Retries(watch.rules)
        self._required = required
        # Whether encoded bytes are refused; anything may be opened until the demands are known.
        self._refuses_codings = False
        self._attempts = 1
        #: Candidates whose bytes were handed out and are not void.
        self._served: set[str] = set()
        # Whether all that was handed out is void, and whether anything was.
        self._void = self._begun = False
        #: Where the transfer was when the image last seemed to change.
        self._changed_at = 0
        self._tolerant = False
        self._ranges = self._may_widen = True
        self._resumes: bool | None = None
        self._mixed_told = False
        self._met: list[str] = []
        self._changed = Condition()
        self._source: OpenedSource | None = None
        self._wanted, self._rate = 1, 0.0
        #: What was not handed out, in order.
        self._missing: list[Range] = [(0, ENDLESS)]
        self._watch.location = self._candidates[0].ref
        try:
            self._open()
            self.required = required or demands.for_image(self.image, watch.check)
            self._required = self.required
            self._check_claims(demands)
            #: As it was told last: a change is an event.
            self.resumability = Resumability(self.version, None)
        except BaseException:
            self.close()
            raise

    @property
    def image(self) -> Image:
        """As the candidate that was opened last describes it."""
        image = self._known.image
        if image is None:
            raise AssertionError("no source was opened")
        return image

    @property
    def candidates(self) -> Sequence[Candidate]:
        """The candidates that were not given up."""
        return self._candidates

    @property
    def version(self) -> str | None:
        """The version that proves the same bytes at the backend itself. A location's says nothing
        elsewhere, and none proves bytes that several servers sent."""
        own = self._candidates[0].ref == self._own_ref  # or what another transfer has of it
        return self.image.version if own and not self._known.versions.joined else None

    @property
    def is_local(self) -> bool:
        """Whether the bytes are a file of this host."""
        return self._source is not None and self._source.local_path is not None

    @property
    def may_resume(self) -> bool:
        """Whether the middle alone can be asked for."""
        return self._source is not None and self._may_resume(self._source)

    @property
    def _covered(self) -> bool:
        """A required digest covers the whole image."""
        return self._required is not None and self._required.covers_all

    @property
    def _proven(self) -> bool:
        """A strong digest covers the whole image: bytes of several places may be joined."""
        return self._required is not None and self._required.proves_all

    # -- opening ---------------------------------------------------------------------------------

    def _open(self) -> None:
        """Open the first candidate that can be opened. :raises: what the last attempt raised."""
        while self._source is None:
            try:
                self._source = self._opened()
            except ImageBrokerError as error:
                if not self._recover(error):
                    raise

    def _opened(self) -> OpenedSource:
        self._connecting()
        while True:
            source = self._candidates[0].open(
                self._first_missing(), self._watch.left, self._connecting
            )
            version = source.image.version
            if version is not None:
                self._met.append(version)
            if self._known.versions.opened(version):
                break
            source.close()
        self._tolerant = source.ignores_version
        try:
            if self._refuses_codings:
                check_coding(source)
            self._admit(source)
        except ImageBrokerError:
            source.close()
            raise
        return source

    def _first_missing(self) -> int:
        """Where the next request will probably begin."""
        if not self._ranges or self._resumes is False:
            return 0
        image = self._known.image
        if image is None:
            return self._start
        proven = self._covered or image.version is not None
        return self._missing[0][0] if proven and self._missing else 0

    def _connecting(self) -> None:
        self._watch.check()
        self._watch.report("connect")

    def _admit(self, source: OpenedSource) -> None:
        """:raises ImageChanged, TooLarge: as `KnownImage.admit`."""
        unlike = self._known.admit(source.image, self._circumstances)
        self._watch.total = self.image.size
        if unlike:
            self._begin_again()
        if self._known.versions.joined and source.ignores_version:
            source.ignore_version()

    def _check_claims(self, demands: Demands) -> None:
        """:raises PolicyViolation, TransferError: see `claims.py`."""
        demanded = self.required.covers_all
        self._refuses_codings = not (demanded or demands.unpacks)
        source = self._source
        if source is not None and self._refuses_codings:
            check_coding(source)
        check_claims(self.image, self._watch.rules, demanded=demanded, local=self.is_local)

    # -- reading ---------------------------------------------------------------------------------

    def events(
        self, missing: Sequence[Range] | None = None, *, mixed: bool = False
    ) -> Generator[Event, None, None]:
        """The bytes that are `missing`, all by default: where `may_resume` is true, the rest is
        not asked for. `mixed`: the rest may be of another version."""
        self._known.versions.joined = self._known.versions.joined or mixed
        if missing is not None:
            self._missing = list(missing)
            self._watch.taken_up = self._count_done()
            self._retries.begin_at(self._watch.taken_up)
            self._void, self._begun = False, True
        while True:
            yield from self._news()
            try:
                if (yield from self._attempt()):
                    return
            except ImageBrokerError as error:
                unsure = isinstance(error, UnconfirmedEnd)
                if unsure and self._covered and self.image.size is None:
                    self._missing = []  # the digest says whether this was the end
                    return
                try:
                    if not self._recover(error):
                        raise
                except ImageBrokerError:
                    self._look_at_ranges()
                    yield from self._news()
                    raise

    def _news(self) -> Iterator[Event]:
        """Events for what has changed since the last ones."""
        while self._met:
            yield VersionMet(self._met.pop(0))
        if self._known.versions.joined and not self._mixed_told:
            self._mixed_told = True
            yield Mixed()
        now = Resumability(self.version, self._shown_resumes())
        if now != self.resumability:
            self.resumability = now
            yield now

    def _shown_resumes(self) -> bool | None:
        if len(self._known.versions.met) > 1 and not self._proven and self._resumes:
            return None  # the server with the same version has to answer then
        return self._resumes

    def _look_at_ranges(self) -> None:
        """Learn from the source whether its peer can begin in the middle."""
        source = self._source
        if source is None:
            return
        if not (self._ranges and source.seekable):
            self._resumes = False
        elif not source.may_refuse_ranges:
            self._resumes = True
        elif self._resumes is False:
            self._resumes = None

    @property
    def left(self) -> int:
        """Bytes that are missing, as far as is known."""
        return 0 if self.image.size is None else length(self._missing)

    @property
    def _whole(self) -> Range:
        return 0, ENDLESS if self.image.size is None else self.image.size

    def _count_done(self) -> int:
        """Bytes that were handed out; also tells the watch."""
        start, stop = self._missing[-1] if self._missing else (0, 0)
        done = start if stop == ENDLESS else (self.image.size or 0) - length(self._missing)
        self._watch.done = done
        return done

    def _begin_again(self) -> None:
        """All that was handed out is void."""
        self._missing = [self._whole]
        self._watch.taken_up = 0
        self._served.clear()
        self._void = True

    def _attempt(self) -> Generator[Event, None, bool]:
        """Everything that is missing, to the end or to the next error; False if the candidate was
        given up by who gets the events."""
        if self._source is None:
            self._source = self._opened()
        source, candidate = self._source, self._candidates[0]
        self._look_at_ranges()
        resumed_from = None
        if self._missing and self._missing != [self._whole]:
            if self._may_resume(source):
                resumed_from = self._missing[0][0]
                LOG.info("%s: resuming at byte %d", redact(self.image.ref), resumed_from)
            else:
                self._begin_again()
        if self._void and self._begun:
            yield Restart()
        self._void, self._begun = False, True
        yield Attempt(self._attempts, candidate, self.image, resumed_from)
        yield from self._news()
        if not self._missing:
            return True
        self._count_done()
        self._watch.begin()
        if source.local_path is not None:
            yield LocalFile(source, candidate)
            if self._source is None:
                return False
        if len(self._missing) > 1 or self._others() or (self._wanted > 1 and self._is_wide()):
            yield from self._in_parallel(None)
            return True
        start, stop = self._missing[0]
        # What comes after the last gap is stored already, and not requested again.
        flow = source.read(start, None if stop == self._whole[1] else stop, self._changed)
        try:
            yield from self._in_order(flow)
            if self._missing:
                yield from self._in_parallel(flow)
            return True
        finally:
            flow.stop()

    def _in_order(self, flow: Flow) -> Iterator[Event]:
        """Chunks of one read, to its end or until more than one at once may be faster.

        They may be where this side spends its time waiting for the peer, and not working: a
        server that is held up by us would not become faster.
        """
        candidate = self._candidates[0]
        position, stop = self._missing[0]
        self._missing = [(position, stop)]
        began, waited, received, busy = 0.0, 0.0, 0, 0.0
        while True:
            before = monotonic()
            batch = self._watch.next_batch(flow)
            now = monotonic()
            if batch is None:
                self._missing = []
                return
            if began:
                waited += now - before
            else:
                began, busy = now, process_time()
            self._served.add(candidate.ref)
            if self._resumes is not True:
                self._look_at_ranges()
                yield from self._news()
            arrived = sum(map(len, batch))
            yield Received(candidate, arrived)
            for chunk in batch:
                offset, position = position, position + len(chunk)
                self._known.check_size(position)
                self._missing[0] = position, stop
                self._watch.done = position
                yield Chunk(offset, chunk, candidate)
            received += arrived
            self._watch.pace(arrived)
            if now - began > self._tuning.observe:
                used = process_time() - busy
                if waited > (now - began) / 2 > used and self._is_wide():
                    self._rate = received / (now - began)
                    return
                began, waited, received, busy = now, 0.0, 0, process_time()

    def _in_parallel(self, flow: Flow | None) -> Iterator[Event]:
        """Several ranges at once; the first may be under way in `flow`."""
        from imagebroker.transfer.fetch.range_scheduler import RangeScheduler  # for large images
        from imagebroker.transfer.fetch.range_source import Opening, RangeSource

        source = self._source
        if source is None:
            raise AssertionError("parallel ranges need an opened source")
        main = RangeSource(
            self._candidates[0], source, self._tuning, Retries(self._watch.rules), self._wanted
        )
        openings = [Opening(each, self._watch, self._changed) for each in self._others()]
        scheduler = RangeScheduler(
            main, self._missing, self._watch, self._changed, self._tuning, openings,
            self._known.check_size_of,
        )  # fmt: skip
        if flow is not None:
            scheduler.adopt(flow, self._rate)
        try:
            for chunk in scheduler:
                self._served.add(chunk.candidate.ref)
                if self._resumes is not True:
                    self._look_at_ranges()
                    yield from self._news()
                yield Received(chunk.candidate, len(chunk.data))
                yield chunk
        finally:
            self._settle(scheduler.rest())

    def _settle(self, rest: Rest) -> None:
        """Go on with what several sources have left."""
        self._missing, self._wanted = rest.missing, rest.wanted
        for opened in rest.others:
            opened.close()
        self._candidates = [each for each in self._candidates if each not in rest.given_up]
        if rest.candidate is not self._candidates[0]:
            self._candidates.remove(rest.candidate)
            self._candidates.insert(0, rest.candidate)
            self._source = rest.opened
            self._known.is_now(rest.opened.image)
            self._watch.location = rest.candidate.ref

    def _others(self) -> list[Candidate]:
        """Further locations that may be read at the same time as the first."""
        if not (self._any_order and self._proven and self.image.size is not None):
            return []
        if self._candidates[0].secondhand or not self._source or not self._source.seekable:
            return []
        if length(self._missing) <= self._tuning.many_locations_from:
            return []
        return self._candidates[1:-1][: _LOCATIONS_AT_ONCE - 1]

    def _is_wide(self) -> bool:
        """Whether several ranges at once are possible, and enough is left."""
        source, image = self._source, self.image
        return (
            self._any_order
            and self._may_widen
            and source is not None
            and source.parallel_reads > 1
            and self._may_resume(source)
            and image.version is not None
            and image.size is not None
            and length(self._missing) > self._tuning.parallel_from
        )

    def _may_resume(self, source: OpenedSource) -> bool:
        if not (self._ranges and source.seekable):
            return False
        return self._covered or (self.image.version is not None and not self._spliced)

    @property
    def _spliced(self) -> bool:
        """Whether bytes came from another candidate than the one that is being read."""
        return any(ref != self._candidates[0].ref for ref in self._served)

    # -- errors ----------------------------------------------------------------------------------

    def _recover(self, error: ImageBrokerError) -> bool:
        """Prepare the next attempt: at the same candidate if that may help, else at the next.

        False if `error` is final or there is no other candidate. Only the caller raises it: a
        function that raises its own argument is in a cycle with it, and all that both hold would
        wait for the garbage collector.
        """
        self._attempts += 1
        if not isinstance(error, RangeIgnored):
            self._look_at_ranges()
        if isinstance(error, FINAL) or self._watch.left <= 0:
            return False
        if isinstance(error, HandedOver):
            self._hand_over()
            return True
        if isinstance(error, ImageChanged):
            return self._after_change(error)
        if not (self._is_a_neighbours(error) or self._retries.allow(error, self._watch.done)):
            return self.give_up(error)
        self._watch.retries += 1
        source = self._source
        if isinstance(error, RangeIgnored):
            self._ranges = False  # it would be ignored again
            # That it refuses ranges does not prove that it cannot: see what it sends now.
            self.close()
        elif source is not None and (not self._may_resume(source) or self._retries.should_reopen):
            self._leave()
        ref, said = redact(self._candidates[0].ref), str(error)
        shown = said if ref in said else f"{ref}: {said}"
        seconds = 0.0 if isinstance(error, RangeIgnored) else self._retries.pause(error)
        when = f" in {seconds:.0f} s" if seconds >= _LONG_PAUSE else ""
        LOG.warning("attempt %d failed, trying again%s: %s", self._attempts - 1, when, shown)
        if not isinstance(error, RangeIgnored):
            self._watch.pause(seconds, error)
        return True

    def _circumstances(self) -> Circumstances:
        own = self._known.own_version
        return Circumstances(
            proven=self._proven,
            tolerant=self._tolerant,
            last=len(self._candidates) == 1,
            resumable=self._ranges and own is not None and not self._spliced,
        )

    def _after_change(self, error: ImageChanged) -> bool:
        """Another version was met: that of another server, or another image.

        False if there is nothing more to try.
        """
        self._count_progress()
        step = self._known.versions.after_change(self._circumstances())
        if step is Step.GIVE_UP:
            return self.give_up(error)
        LOG.warning("%s; another server may have answered: %s", error, step.name.lower())
        self._watch.retries += 1
        source = self._source
        if step is Step.JOIN and source is not None:
            source.ignore_version()
        elif step is not Step.ASK:
            self._leave()
        if step is not Step.JOIN:
            self._may_widen = False  # each request may meet another server
        if step is Step.BEGIN:
            self._known.accept_any_version()
            self._changed_at = 0
            self._begin_again()
        self._watch.pause(self._retries.short_pause(error), error)
        return True

    def _is_a_neighbours(self, error: ImageBrokerError) -> bool:
        """Whether a refusal may be that of another server than the one which sent bytes."""
        if not (self._tolerant and isinstance(error, (ImageNotFound, NotAuthorized))):
            return False
        self._count_progress()
        return self._candidates[0].ref in self._served and self._known.versions.may_ask_again()

    def _count_progress(self) -> None:
        if self._watch.done >= self._changed_at + _PROGRESS:
            self._known.versions.progressed()
        self._changed_at = self._watch.done

    def give_up(self, error: ImageBrokerError) -> bool:
        """Continue at the next candidate.

        False if there is no other, or no other could do better.
        """
        if len(self._candidates) == 1 or isinstance(error, FINAL):
            return False
        LOG.warning(
            "the location %s failed, trying the next: %s", redact(self._candidates[0].ref), error
        )
        self._leave()
        self._candidates.pop(0)
        self._watch.location = self._candidates[0].ref
        self._known.forget()
        self._ranges, self._wanted, self._resumes = True, 1, None
        self._retries.for_next(self._watch.done)
        merely_broke = isinstance(error, (TransferError, BackendError))
        if self._known.image is not None and not (self._proven and merely_broke):
            self._begin_again()
        return True

    def _hand_over(self) -> None:
        """Go on at the next candidate with what is missing, if something proves that it is the
        same image."""
        self._leave()
        before = self._candidates.pop(0)
        self._watch.location = self._candidates[0].ref
        if self._candidates[0].ref != before.ref:
            self._known.forget()
            if not self._proven:
                self._begin_again()

    def _leave(self) -> None:
        """Close the source; by now it has shown whether it can be read from the middle."""
        self._look_at_ranges()
        self.close()

    def close(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()
