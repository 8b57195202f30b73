"""The bytes of one image in order, from one place, through as many attempts as it takes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from time import monotonic

from imagebroker.backend import Buffer
from imagebroker.boundary import Flow, OpenedSource
from imagebroker.exceptions import (
    BackendError,
    ImageBrokerError,
    ImageChanged,
    PolicyViolation,
    RangeIgnored,
    TooLarge,
    TransferError,
)
from imagebroker.image import Image
from imagebroker.transfer.lanes import MEASURE, WORTH_IT, Lanes, Range
from imagebroker.transfer.rules import Watch

LOG = logging.getLogger(__name__)

#: Opens the place; the argument is the seconds that are left.
Opener = Callable[[float], OpenedSource]
#: Bytes that an attempt must bring to give the next ones their full budget again.
_PROGRESS = 64 * 1024


class Incoming:
    """Iterate it for `(offset, chunk)`. An offset that goes back to 0 is a transfer begun again.

    What is retried: errors of the network and of a service in trouble, never a check, a refusal
    or a change of the image. The middle is asked for only where the source is seekable and
    something proves that both halves are one image: a strong version, or a digest over the whole.
    """

    def __init__(self, opener: Opener, watch: Watch) -> None:
        """Open the place, with retries. :raises: what the last attempt raised."""
        self._open = opener
        self._watch = watch
        #: True if a required digest covers the whole image; set before iterating.
        self.covered = False
        #: This one and those that failed before it.
        self.attempts = 1
        #: Where the last resumed attempt went on; None if none did.
        self.resumed_from: int | None = None
        self._failures = 0
        self._furthest = self._position = 0
        self._ranges = True
        #: True if chunks may come in any order; set before iterating.
        self.any_order = False
        #: What is missing after several ranges at once broke off.
        self._gaps: list[Range] = []
        self._changed = threading.Condition()
        self._source: OpenedSource | None = None
        self.image: Image
        while self._source is None:
            try:
                self._source = self._opened()
            except ImageBrokerError as error:
                self._wait_or_raise(error)

    @property
    def local(self) -> OpenedSource | None:
        """The source, if its bytes are a file on this host."""
        return self._source if self._source and self._source.local_path is not None else None

    def _opened(self) -> OpenedSource:
        self._watch.check()
        self._watch.report("connect")
        source = self._open(self._watch.left)
        try:
            self._same_image(source.image)
        except ImageBrokerError:
            source.close()
            raise
        return source

    def _same_image(self, image: Image) -> None:
        first = getattr(self, "image", None)
        if first is not None and (image.version, image.size) != (first.version, first.size):
            raise ImageChanged(
                f"{image.ref} changed while it was read",
                hint="download it again to get the new image",
            )
        if first is None:
            self.image = image
            self._watch.total = image.size
            self._check_size(image.size or 0)

    def _check_size(self, size: int) -> None:
        limit = self._watch.rules.max_size
        if size > limit:
            raise TooLarge(
                f"{self.image.ref} has {size} bytes, and at most {limit} are allowed",
                hint="raise max_size if that is wanted",
            )

    def check_claims(self, *, demanded: bool) -> None:
        """Refuse what nobody could verify. `demanded`: the caller or the record has a checksum.

        :raises PolicyViolation: nobody knows the size, and no checksum covers the bytes.
        :raises TransferError: the image is empty, and nobody but the peer says so.
        """
        rules, image = self._watch.rules, self.image
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

    def may_begin_at(self, position: int) -> bool:
        """Begin in the middle, because the bytes before are stored already; False if it cannot."""
        if self._source is None or not self._may_resume(self._source):
            return False
        self._position = self._furthest = position
        return True

    def __iter__(self) -> Iterator[tuple[int, Buffer]]:
        while True:
            try:
                yield from self._attempt()
                return
            except ImageBrokerError as error:
                self._wait_or_raise(error)

    def _attempt(self) -> Iterator[tuple[int, Buffer]]:
        """From the first missing byte to the end, or to the next error."""
        if self._source is None:
            self._source = self._opened()
        source, resume = self._source, self._may_resume(self._source)
        if self._gaps and resume:
            self.resumed_from = self._gaps[0][0]
            yield from self._in_lanes(Lanes(source, self._gaps, self._watch, self._changed))
            return
        start = self._position if resume else 0
        if start:
            self.resumed_from = start
            LOG.info("%s: going on at byte %d", self.image.ref, start)
        self._gaps, self._position, self._watch.done = [], start, start
        self._watch.begin()
        flow = source.read(start, None, self._changed)
        try:
            yield from self._in_order(flow)
            if not flow.has_ended:
                lanes = Lanes(source, [(self._position, self.image.size or 0)], self._watch,
                              self._changed)  # fmt: skip
                lanes.adopt(flow)
                yield from self._in_lanes(lanes)
        finally:
            flow.stop()

    def _in_order(self, flow: Flow) -> Iterator[tuple[int, Buffer]]:
        """Chunks of one read, to its end or until more than one may be faster."""
        began = monotonic()
        while (batch := self._watch.next_batch(flow)) is not None:
            for chunk in batch:
                offset, self._position = self._position, self._position + len(chunk)
                self._check_size(self._position)
                self._watch.done = self._position
                yield offset, chunk
            if self._may_widen() and monotonic() - began > MEASURE:
                return

    def _in_lanes(self, lanes: Lanes) -> Iterator[tuple[int, Buffer]]:
        try:
            yield from lanes
        finally:
            self._gaps = lanes.missing

    def _may_widen(self) -> bool:
        """Whether several ranges at once are possible, and enough is left."""
        source, image = self._source, self.image
        return (
            self.any_order
            and source is not None
            and source.parallel_reads > 1
            and self._may_resume(source)
            and image.version is not None
            and image.size is not None
            and image.size - self._position > WORTH_IT
        )

    def _may_resume(self, source: OpenedSource) -> bool:
        return self._ranges and source.seekable and (self.covered or self.image.version is not None)

    def _wait_or_raise(self, error: ImageBrokerError) -> None:
        """Prepare the next attempt, unless `error` is final or the budget is used up."""
        self.attempts += 1
        retryable = isinstance(error, (TransferError, BackendError)) and error.retryable
        if not retryable:
            raise error
        if self._watch.done >= self._furthest + _PROGRESS:
            self._furthest, self._failures = self._watch.done, 0
        self._failures += 1
        if self._failures > self._watch.rules.retries:
            raise error
        self._watch.retries += 1
        source = self._source
        if isinstance(error, RangeIgnored):
            self._ranges = False  # it would be ignored again
            self._gaps = []
        if source is not None and (not self._may_resume(source) or self._failures > 1):
            self.close()
        LOG.info("attempt %d failed, trying again: %s", self.attempts - 1, error)
        if not isinstance(error, RangeIgnored):
            self._watch.pause(self._failures, error)

    def close(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()
