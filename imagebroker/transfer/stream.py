"""The bytes of an image in order, each once, for destinations that cannot go back."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Generator, Sequence
from typing import Any

from imagebroker.backend import Buffer
from imagebroker.exceptions import ImageBrokerError, ImageChanged
from imagebroker.image import Image
from imagebroker.transfer.incoming import Incoming
from imagebroker.transfer.places import FINAL, Demands, Place
from imagebroker.transfer.rules import Watch
from imagebroker.verify.checks import Checks
from imagebroker.verify.checksum import DEFAULT

LOG = logging.getLogger(__name__)


class Stream:
    """Iterate it: when it ends without an error, every check has passed.

    The last chunk is held back until then, so that a consumer that counts bytes is safe too. An
    attempt that has to begin again repeats what was handed out; the repetition is compared by
    digest and dropped, and other bytes are `ImageChanged`.
    """

    def __init__(self, places: Sequence[Place], demands: Demands, watch: Watch) -> None:
        """Open the first place that can be opened. :raises: as the backend's `open`."""
        self._places, self._demands, self._watch = list(places), demands, watch
        self._place = self._places[0]
        self._required = demands.of_record(watch.check)
        self._checks: Checks | None = None
        self._delivered = 0
        self._earlier_attempts = 0
        #: What was computed over the bytes; empty until the end.
        self.evidence: dict[str, Any] = {}
        self._incoming = self._next_place()

    @property
    def image(self) -> Image:
        return self._demands.record or self._incoming.image

    @property
    def source(self) -> str:
        """The ref of the location that serves the bytes."""
        return self._place.ref

    @property
    def attempts(self) -> int:
        return self._earlier_attempts + self._incoming.attempts

    @property
    def resumed_from(self) -> int | None:
        return self._incoming.resumed_from

    def _next_place(self) -> Incoming:
        while True:
            self._place = self._places.pop(0)
            self._watch.location = self._place.ref
            incoming = None
            try:
                incoming = Incoming(self._place.open, self._watch)
                self._demand(incoming)
                return incoming
            except ImageBrokerError as error:
                if incoming is not None:
                    incoming.close()
                self._raise_if_last(error)
            except BaseException:
                if incoming is not None:
                    incoming.close()
                raise

    def _demand(self, incoming: Incoming) -> None:
        """Settle what must hold, the same for all places."""
        required = self._required
        if required is None:
            required = self._demands.for_image(incoming.image, self._watch.check)
            self._required = required
        incoming.covered = required.covers_all
        incoming.check_claims(demanded=required.covers_all)
        if self._checks is None:
            self._checks = required.start(incoming.image.size)

    def _raise_if_last(self, error: ImageBrokerError) -> None:
        if not self._places or isinstance(error, FINAL):
            raise error
        LOG.warning("the location %s failed, trying the next: %s", self._place.ref, error)

    def __iter__(self) -> Generator[Buffer, None, None]:
        held: Buffer | None = None
        for chunk in self._across_places():
            if held is not None:
                yield held
            held = chunk
        self._watch.report("verify", always=True)
        checks = self._checks
        if checks is not None:
            self.evidence = checks.evidence()
        if held is not None:
            yield held
        self._watch.report("done", always=True)

    def _across_places(self) -> Generator[Buffer, None, None]:
        while True:
            try:
                yield from self._continuous(self._incoming)
                return
            except ImageBrokerError as error:
                self._earlier_attempts += self._incoming.attempts
                self._incoming.close()
                self._raise_if_last(error)
                self._incoming = self._next_place()

    def _continuous(self, incoming: Incoming) -> Generator[Buffer, None, None]:
        """What was not handed out yet."""
        repeat: Any = None
        for offset, chunk in incoming:
            if offset == 0 and self._delivered:
                repeat = hashlib.new(self._algorithm())
            if repeat is not None:
                again = min(self._delivered - offset, len(chunk))
                repeat.update(memoryview(chunk)[:again])
                if again + offset < self._delivered:
                    continue
                self._compare(repeat.hexdigest())
                repeat, chunk = None, memoryview(chunk)[again:]
            if not len(chunk):
                continue
            if self._checks is not None:
                self._checks.feed(chunk)
            self._delivered += len(chunk)
            yield chunk

    def _algorithm(self) -> str:
        return next(iter(self._checks.prefix())) if self._checks is not None else DEFAULT

    def _compare(self, repeated: str) -> None:
        before = self._checks.prefix() if self._checks is not None else {}
        if not hmac.compare_digest(before.get(self._algorithm(), ""), repeated):
            raise ImageChanged(
                f"{self.image.ref}: the first {self._delivered} bytes were others when they were "
                "read again",
                hint="begin again: the image was replaced",
            )

    def close(self) -> None:
        """Let go; idempotent."""
        self._incoming.close()
        if self._checks is not None:
            self._checks.close()
