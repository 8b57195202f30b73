"""The bytes of one image, from the places that have it, through as many attempts as it takes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from time import monotonic, process_time

from imagebroker.backends.backend import Buffer
from imagebroker.backends.boundary import Flow, OpenedSource
from imagebroker.exceptions import (
    BackendError,
    ImageBrokerError,
    ImageChanged,
    ImageNotFound,
    NotAuthorized,
    PolicyViolation,
    RangeIgnored,
    TooLarge,
    TransferError,
    UnconfirmedEnd,
)
from imagebroker.model.image import Image
from imagebroker.redaction import redact
from imagebroker.system.forks import Condition
from imagebroker.transfer.fetch.candidates import FINAL, HandedOver, Place
from imagebroker.transfer.fetch.range_scheduler import WORTH_IT, Lanes
from imagebroker.transfer.fetch.range_source import Opening, Supplier
from imagebroker.transfer.fetch.versions import Circumstances, Joining, Step, Versions
from imagebroker.transfer.layers.codecs import KINDS
from imagebroker.transfer.limits import Watch
from imagebroker.transfer.ranges import ENDLESS, Range, length

LOG = logging.getLogger(__name__)

#: Bytes that an attempt must bring to give the next ones their full budget again.
_PROGRESS = 64 * 1024
#: Attempts in a row without progress after which the source is opened again. Opening may have the
#: first bytes sent once more, so a connection that breaks now and then is no reason for it.
_FRUITLESS = 2
#: Seconds of one connection after which more of them may be tried.
GLANCE = 0.05
#: Bytes that must be missing to have several locations read.
LARGE = 16 * 1024 * 1024
#: Locations that are read at once.
_LOCATIONS_AT_ONCE = 4


class Incoming:
    """Iterate it for `(offset, chunk)`. Where `begun` has grown, what came before is void.

    What is retried: errors of the network and of a service in trouble, never a check, a refusal
    or a change of the image. The middle is asked for only where the source is seekable and
    something proves that both halves are one image: a strong version, or a digest over the whole.
    A version that differs may be that of another server behind the same name (`versions.py`).
    When a place is given up, the next goes on at the missing bytes if a strong digest covers the
    whole and the place merely broke; otherwise it begins at byte 0.
    """

    def __init__(
        self,
        places: Sequence[Place],
        watch: Watch,
        record: Image | None = None,
        joining: Joining = Joining(),  # noqa: B008 - it is frozen
        start: int = 0,
    ) -> None:
        """Open the first place that can be opened, with retries. The last is the backend itself.

        `record`: what is known of the image before; every place must have its size. `start`: the
        first byte that is probably missing.

        :raises: what the last attempt at the last place raised.
        """
        #: Those that were not given up; the first is being read.
        self._places = list(places)
        self._own = self._places[-1]
        self._watch = watch
        self._size = record.size if record is not None else None
        #: True if a required digest covers the whole image; set before iterating.
        self.covered = False
        #: True if one covers it that nobody can forge: bytes of several places may be joined.
        self.proven = False
        #: True if chunks may come in any order; set before iterating.
        self.any_order = False
        #: This one and those that failed before it.
        self.attempts = 1
        #: Where the last resumed attempt went on; None if none did.
        self.resumed_from: int | None = None
        #: How often the bytes began at 0.
        self.begun = 0
        #: Bytes that came from each place, by its ref; of those that are not void.
        self.served: dict[str, int] = {}
        #: Whether any of them came from another transfer or a cache.
        self.secondhand = False
        self.versions = Versions(joining)
        self._start = start
        #: Where the transfer was when the image last seemed to change.
        self._changed_at = 0
        self._any_version = self._tolerant = False
        self._failures = self._fruitless = self._furthest = 0
        self._ranges = True
        self._may_use_lanes = True
        self._resumes: bool | None = None
        #: Whether bytes are good that are said to be encoded; decided by `check_claims`.
        self._any_coding = True
        self._changed = Condition()
        self._source: OpenedSource | None = None
        self._wanted, self._rate = 1, 0.0
        #: What was not handed out, in order.
        self._missing: list[Range] = [(0, ENDLESS)]
        #: The image as the place that is being read first described it.
        self._first: Image | None = None
        self.image: Image
        self._watch.location = self._places[0].ref
        self.reopen()

    @property
    def local(self) -> OpenedSource | None:
        """The source, if its bytes are a file on this host."""
        return self._source if self._source and self._source.local_path is not None else None

    @property
    def source(self) -> str:
        """The ref of the place that sent most of the bytes."""
        return max(self.served, key=lambda ref: self.served[ref], default=self._places[0].ref)

    @property
    def located(self) -> bool:
        """Whether any of the bytes came from a location instead of the backend itself."""
        return any(count for ref, count in self.served.items() if ref != self._own.ref)

    @property
    def version(self) -> str | None:
        """What proves the same bytes at the backend itself; a location's says nothing elsewhere,
        and nothing does of bytes that several servers sent."""
        own = self._places[0].ref == self._own.ref  # or what another transfer has of it
        return self.image.version if own and not self.versions.joined else None

    @property
    def resumes(self) -> bool | None:
        """Whether a later call can go on with what is stored now; None if nobody knows."""
        self._look_at_ranges()
        if len(self.versions.met) > 1 and not self.proven and self._resumes:
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

    # -- opening ---------------------------------------------------------------------------------

    def reopen(self) -> None:
        """Open the first place that can be opened. :raises: what the last attempt raised."""
        while self._source is None:
            try:
                self._source = self._opened()
            except ImageBrokerError as error:
                self._recover(error)

    def _opened(self) -> OpenedSource:
        self._watch.check()
        self._watch.report("connect")
        while True:
            start = self._first_missing()
            source = self._places[0].opened(start, self._watch.left, self._connecting)
            if self.versions.opened(source.image.version):
                break
            source.close()
        self._tolerant = source.ignores_version
        try:
            self._check_coding(source)
            self._same_image(source)
        except ImageBrokerError:
            source.close()
            raise
        return source

    def _first_missing(self) -> int:
        """Where the next request will probably begin."""
        if not self._ranges or self._resumes is False:
            return 0
        if not hasattr(self, "image"):
            return self._start
        proven = self.covered or self.image.version is not None
        return self._missing[0][0] if proven and self._missing else 0

    def _connecting(self) -> None:
        self._watch.check()
        self._watch.report("connect")

    def _same_image(self, source: OpenedSource) -> None:
        """:raises ImageChanged: its bytes cannot be joined with those that came before."""
        image, first = source.image, self._first
        if first is None:
            self._look_at_first(image)
        elif not _agree(image, first):
            raise _changed(image)
        elif self._any_version:
            self._first = self.image = image
        elif image.version != first.version:
            if not self.versions.may_join(self._circumstances):
                raise _changed(image)
            self._first = image
        self._any_version = False
        if self.versions.joined and source.ignores_version:
            source.ignore_version()

    def _look_at_first(self, image: Image) -> None:
        self._check_fits(image)
        known = getattr(self, "image", None)
        self._first = self.image = image
        self._watch.total = image.size
        self._check_size(image.size or 0)
        if known is None or known.size != image.size:
            self._begin_again()

    def _check_fits(self, image: Image) -> None:
        """:raises ImageChanged: it has another size than the record."""
        if self._size is not None and image.size not in (None, self._size):
            raise ImageChanged(
                f"{image.ref} has {image.size} bytes, and the record says {self._size}",
                hint="the record and what it leads to are not of the same image",
            )

    def _check_size(self, size: int) -> None:
        limit = self._watch.rules.max_size
        if size > limit:
            raise TooLarge(
                f"{self.image.ref} has {size} bytes, and at most {limit} are allowed",
                hint="raise max_size if that is wanted",
            )

    def check_claims(self, *, demanded: bool, unpacks: bool = False) -> None:
        """Refuse what nobody could verify.

        :param demanded: the caller or the record has a checksum.
        :param unpacks: the caller takes what is in the bytes, not the bytes.
        :raises PolicyViolation: nobody knows the size, and no checksum covers the bytes.
        :raises TransferError: the image is empty, and nobody but the peer says so.
        """
        rules, image = self._watch.rules, self.image
        self._any_coding = demanded or unpacks
        if self._source is not None:
            self._check_coding(self._source)
        if image.size is None and not (demanded or rules.allow_unknown_size):
            raise PolicyViolation(
                f"{image.ref}: the server does not say how many bytes there are",
                hint="pass a checksum, or allow_unknown_size if a cut may pass as complete",
            )
        proven = demanded or rules.allow_empty or image.id is not None or self.local is not None
        if image.size == 0 and not proven:
            raise TransferError(
                f"{image.ref} is empty",
                hint="pass allow_empty if it is meant to be",
                retryable=False,
            )

    def _check_coding(self, source: OpenedSource) -> None:
        """:raises TransferError: nobody could tell the image from an encoding of it."""
        if source.coding and not self._any_coding:
            unpacked = source.coding.removeprefix("x-")
            raise TransferError(
                f"{source.image.ref}: the server sends it encoded as {source.coding!r}, though it "
                "was asked not to",
                hint=f"pass --decompress={unpacked} to store what is in it"
                if unpacked in KINDS
                else "pass --checksum with the digest of the file as the server stores it",
                retryable=False,
                coding=source.coding,
            )

    # -- reading ---------------------------------------------------------------------------------

    def may_leave_out(self, missing: Sequence[Range]) -> bool:
        """Ask only for what is missing, because the rest is stored; False if that cannot be."""
        if self._source is None or not self._may_resume(self._source):
            return False
        self._missing = list(missing)
        self._furthest = self._count_done()
        return True

    @property
    def left(self) -> int:
        """Bytes that are missing, as far as anybody knows."""
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
        self.served.clear()
        self.secondhand = False
        self.begun += 1

    def __iter__(self) -> Iterator[tuple[int, Buffer]]:
        while True:
            try:
                yield from self._attempt()
                return
            except UnconfirmedEnd as error:
                if self.covered and self.image.size is None:
                    self._missing = []  # the digest says whether this was the end
                    return
                self._recover(error)
            except ImageBrokerError as error:
                self._recover(error)

    def _attempt(self) -> Iterator[tuple[int, Buffer]]:
        """Everything that is missing, to the end or to the next error."""
        if self._source is None:
            self._source = self._opened()
        source = self._source
        self._look_at_ranges()
        if not self._missing:
            return
        if self._missing != [self._whole]:
            if self._may_resume(source):
                self.resumed_from = self._missing[0][0]
                LOG.info("%s: going on at byte %d", redact(self.image.ref), self.resumed_from)
            else:
                self._begin_again()
        self.secondhand = self.secondhand or self._places[0].secondhand
        self._count_done()
        self._watch.begin()
        if len(self._missing) > 1 or self._others() or (self._wanted > 1 and self._may_widen()):
            yield from self._in_lanes(None)
            return
        start, stop = self._missing[0]
        # What lies behind the last gap is stored already: it is not asked for again.
        flow = source.read(start, None if stop == self._whole[1] else stop, self._changed)
        try:
            yield from self._in_order(flow)
            if self._missing:
                yield from self._in_lanes(flow)
        finally:
            flow.stop()

    def _in_order(self, flow: Flow) -> Iterator[tuple[int, Buffer]]:
        """Chunks of one read, to its end or until more than one at once may be faster.

        They may be where this side spends its time waiting for the peer, and not working: a
        server that is held up by us would not become faster.
        """
        ref = self._places[0].ref
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
            arrived = 0
            for chunk in batch:
                offset, position = position, position + len(chunk)
                self._check_size(position)
                self._missing[0] = position, stop
                self._watch.done = position
                arrived += len(chunk)
                yield offset, chunk
            self.served[ref] = self.served.get(ref, 0) + arrived
            received += arrived
            self._watch.pace(arrived)
            if now - began > GLANCE:
                used = process_time() - busy
                if waited > (now - began) / 2 > used and self._may_widen():
                    self._rate = received / (now - began)
                    return
                began, waited, received, busy = now, 0.0, 0, process_time()

    def _in_lanes(self, flow: Flow | None) -> Iterator[tuple[int, Buffer]]:
        source = self._source
        if source is None:
            raise AssertionError("lanes need an opened source")
        main = Supplier(self._places[0], source, wanted=self._wanted)
        openings = [Opening(place, self._watch, self._changed) for place in self._others()]
        lanes = Lanes(main, self._missing, self._watch, self._changed, openings)
        lanes.fits = self._check_fits
        if flow is not None:
            lanes.adopt(flow, self._rate)
        try:
            yield from lanes
        finally:
            self._settle(lanes)

    def _settle(self, lanes: Lanes) -> None:
        """Take over what several suppliers have left: what is missing, and who goes on."""
        self._missing = lanes.missing
        for ref, count in lanes.served.items():
            self.served[ref] = self.served.get(ref, 0) + count
        main = lanes.main
        self._wanted = max(main.wanted, 1)
        for supplier in lanes.suppliers:
            if supplier is not main:
                supplier.source.close()
        self._places = [place for place in self._places if place not in lanes.given_up]
        if main.place is not self._places[0]:
            self._places.remove(main.place)
            self._places.insert(0, main.place)
            self._source, self._first = main.source, main.source.image
            self._watch.location = main.place.ref

    def _others(self) -> list[Place]:
        """Further locations that may be read at the same time as the first."""
        size = self.image.size
        if not (self.any_order and self.proven and size is not None):
            return []
        if self._places[0].secondhand:
            return []
        if length(self._missing) <= LARGE or not self._source or not self._source.seekable:
            return []
        return self._places[1:-1][: _LOCATIONS_AT_ONCE - 1]

    def _may_widen(self) -> bool:
        """Whether several ranges at once are possible, and enough is left."""
        source, image = self._source, self.image
        return (
            self.any_order
            and self._may_use_lanes
            and source is not None
            and source.parallel_reads > 1
            and self._may_resume(source)
            and image.version is not None
            and image.size is not None
            and length(self._missing) > WORTH_IT
        )

    def _may_resume(self, source: OpenedSource) -> bool:
        if not (self._ranges and source.seekable):
            return False
        return self.covered or (self.image.version is not None and not self._spliced)

    @property
    def _spliced(self) -> bool:
        """Whether bytes came from another place than the one that is being read."""
        return any(ref != self._places[0].ref for ref in self.served)

    # -- errors ----------------------------------------------------------------------------------

    def _recover(self, error: ImageBrokerError) -> None:
        """Prepare the next attempt: at the same place if that may help, else at the next.

        :raises: `error`, if it is final or there is no other place.
        """
        self.attempts += 1
        if not isinstance(error, RangeIgnored):
            self._look_at_ranges()
        if isinstance(error, FINAL) or self._watch.left <= 0:
            raise error
        if isinstance(error, HandedOver):
            self._hand_over()
            return
        if isinstance(error, ImageChanged):
            self._after_change(error)
            return
        if not (self._is_a_neighbours(error) or self._may_retry(error)):
            self.give_up_place(error)
            return
        self._watch.retries += 1
        source = self._source
        if isinstance(error, RangeIgnored):
            self._ranges = False  # it would be ignored again
            # Whoever refuses all that is asked has not said that it cannot: see what it sends now.
            self._let_go()
        elif source is not None and (not self._may_resume(source) or self._fruitless >= _FRUITLESS):
            self.close()
        LOG.info("attempt %d failed, trying again: %s", self.attempts - 1, error)
        if not isinstance(error, RangeIgnored):
            self._watch.pause(self._failures if self._fruitless else 0, error)

    @property
    def _circumstances(self) -> Circumstances:
        own = self._first.version if self._first is not None else None
        return Circumstances(
            proven=self.proven,
            tolerant=self._tolerant,
            last=len(self._places) == 1,
            resumable=self._ranges and own is not None and not self._spliced,
        )

    def _after_change(self, error: ImageChanged) -> None:
        """Another version was met: that of another server, or another image.

        :raises: `error`, if there is nothing more to try.
        """
        self._count_progress()
        step = self.versions.after_change(self._circumstances)
        if step is Step.GIVE_UP:
            self.give_up_place(error)
            return
        LOG.info("%s; another server may have answered: %s", error, step.name.lower())
        self._watch.retries += 1
        source = self._source
        if step is Step.JOIN and source is not None:
            source.ignore_version()
        elif step is not Step.ASK:
            self.close()
        if step is not Step.JOIN:
            self._may_use_lanes = False  # each request may meet another server
        if step is Step.BEGIN:
            self._any_version, self._changed_at = True, 0
            self._begin_again()
        self._watch.pause(0, error)

    def _is_a_neighbours(self, error: ImageBrokerError) -> bool:
        """Whether a refusal may be that of another server than the one which sent bytes."""
        if not (self._tolerant and isinstance(error, (ImageNotFound, NotAuthorized))):
            return False
        self._count_progress()
        return self._places[0].ref in self.served and self.versions.may_ask_again()

    def _count_progress(self) -> None:
        if self._watch.done >= self._changed_at + _PROGRESS:
            self.versions.progressed()
        self._changed_at = self._watch.done

    def _may_retry(self, error: ImageBrokerError) -> bool:
        """Whether the same place may do better, and the budget is not used up."""
        if not (isinstance(error, (TransferError, BackendError)) and error.retryable):
            return False
        self._fruitless += 1
        if self._watch.done >= self._furthest + _PROGRESS:
            self._furthest, self._failures, self._fruitless = self._watch.done, 0, 0
        self._failures += 1
        return self._failures <= self._watch.rules.retries

    def give_up_place(self, error: ImageBrokerError) -> None:
        """Go on at the next place. :raises: `error`, if there is none or none could do better."""
        if len(self._places) == 1 or isinstance(error, FINAL):
            raise error
        LOG.warning(
            "the location %s failed, trying the next: %s", redact(self._places[0].ref), error
        )
        self.close()
        self._places.pop(0)
        self._watch.location = self._places[0].ref
        self._first, self._ranges, self._failures, self._wanted = None, True, 0, 1
        self._resumes = None
        self._furthest = self._watch.done
        merely_broke = isinstance(error, (TransferError, BackendError))
        if hasattr(self, "image") and not (self.proven and merely_broke):
            self._begin_again()

    def _hand_over(self) -> None:
        """Go on at the next place with what is missing, if something proves that it is the same."""
        self.close()
        before = self._places.pop(0)
        self._watch.location = self._places[0].ref
        if self._places[0].ref != before.ref:
            self._first = None
            if not self.proven:
                self._begin_again()

    def close(self) -> None:
        self._look_at_ranges()
        self._let_go()

    def _let_go(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()


def _agree(image: Image, first: Image) -> bool:
    """Whether an image that is opened again may have the same bytes, whatever its version says."""
    return image.size == first.size and all(
        image.checksums.get(name, digest) == digest for name, digest in first.checksums.items()
    )


def _changed(image: Image) -> ImageChanged:
    return ImageChanged(
        f"{image.ref} changed while it was read", hint="download it again to get the new image"
    )
