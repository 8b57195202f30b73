"""The bytes of an image in order, each once, for destinations that cannot go back."""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

from imagebroker.backends.backend import Buffer
from imagebroker.exceptions import ImageChanged
from imagebroker.model.image import Image
from imagebroker.transfer.fetch.candidates import Demands, Place, caveats
from imagebroker.transfer.fetch.retry import Incoming
from imagebroker.transfer.fetch.versions import Joining, Versions
from imagebroker.transfer.limits import Watch
from imagebroker.verify.checksum import DEFAULT


class Stream:
    """Iterate it: when it ends without an error, every check has passed.

    The first bytes are held back until it is known that they are no web page, and the last chunk to
    the end, so that a consumer that counts bytes is safe too. An
    attempt that has to begin again repeats what was handed out; the repetition is compared by
    digest and dropped, and other bytes are `ImageChanged`. What was handed out cannot be taken
    back: where a location sent other bytes, the stream ends with an error.
    """

    def __init__(
        self,
        places: Sequence[Place],
        demands: Demands,
        watch: Watch,
        joining: Joining = Joining(),  # noqa: B008 - it is frozen
    ) -> None:
        """Open the first place that can be opened. :raises: as the backend's `open`."""
        self._places, self._demands, self._watch = places, demands, watch
        self._delivered = 0
        #: What was computed over the bytes; empty until the end.
        self.evidence: dict[str, Any] = {}
        required = demands.of_record(watch.check)
        self._incoming = incoming = Incoming(places, watch, demands.record, joining)
        try:
            required = required or demands.for_image(incoming.image, watch.check)
            incoming.covered, incoming.proven = required.covers_all, required.proves_all
            incoming.check_claims(demanded=required.covers_all, unpacks=demands.unpacks)
            self._checks = required.start(incoming.image.size)
        except BaseException:
            incoming.close()
            raise

    @property
    def image(self) -> Image:
        return self.versions.shown(self._demands.record or self._incoming.image)

    @property
    def versions(self) -> Versions:
        """Those that the bytes came from."""
        return self._incoming.versions

    @property
    def source(self) -> str:
        """The ref of the location that serves the bytes, or most of them."""
        return self._incoming.source

    @property
    def served(self) -> dict[str, int]:
        """Bytes that each location sent, by its ref."""
        return self._incoming.served

    @property
    def attempts(self) -> int:
        return self._incoming.attempts

    @property
    def resumed_from(self) -> int | None:
        return self._incoming.resumed_from

    @property
    def located(self) -> bool:
        """Whether any of the bytes came from a location instead of the backend itself."""
        return self._incoming.located

    @property
    def size(self) -> int | None:
        """Bytes that it hands out, None if nobody knows."""
        return self.image.size

    def __iter__(self) -> Generator[Buffer, None, None]:
        yield from self.verified()
        self._watch.report("done", always=True)

    def verified(self) -> Generator[Buffer, None, None]:
        """The chunks. That they end means that the checks have passed, not that all is done."""
        held: deque[Buffer] = deque()
        for chunk in self._continuous(self._incoming):
            held.append(chunk)
            while len(held) > 1 and not self._checks.unsettled:
                yield held.popleft()
        self._watch.report("verify", always=True)
        self.evidence = self._checks.evidence() | caveats(self._places, self.served)
        yield from held

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
            self._checks.feed(chunk)
            self._delivered += len(chunk)
            yield chunk

    def _algorithm(self) -> str:
        return next(iter(self._checks.prefix()), DEFAULT)

    def _compare(self, repeated: str) -> None:
        before = self._checks.prefix()
        if not hmac.compare_digest(before.get(self._algorithm(), ""), repeated):
            raise ImageChanged(
                f"{self.image.ref}: the first {self._delivered} bytes were others when they were "
                "read again",
                hint="begin again: the image was replaced",
            )

    def close(self) -> None:
        """Let go; idempotent."""
        self._incoming.close()
        self._checks.close()
