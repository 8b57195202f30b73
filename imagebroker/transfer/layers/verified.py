"""Verification of bytes in order: each is handed out once, the last when every check has passed."""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from imagebroker.exceptions import ImageChanged
from imagebroker.model.image import Image
from imagebroker.transfer.fetch.events import Checked, Chunk, Event, Events, Restart
from imagebroker.transfer.fetch.fetch import Fetch
from imagebroker.transfer.limits import Watch
from imagebroker.verify.checksum import DEFAULT


class Verified:
    """For destinations that cannot go back.

    The first bytes are held back until it is known that they are no web page, and the last chunk
    to the end, so that a consumer that counts bytes is safe too. An attempt that has to begin again
    repeats what was handed out; the repetition is compared by digest and dropped, and other bytes
    are `ImageChanged`. What was handed out cannot be taken back: where a location sent other bytes,
    the stream ends with an error.
    """

    def __init__(self, fetch: Fetch, watch: Watch) -> None:
        """:raises FormatError: nothing that is declared like this would be acceptable."""
        self._fetch, self._watch = fetch, watch
        self._checks = fetch.required.start(fetch.image.size)
        self._delivered = 0

    @property
    def image(self) -> Image:
        return self._fetch.image

    @property
    def size(self) -> int | None:
        return self._fetch.image.size

    def events(self) -> Events:
        held: deque[Chunk] = deque()
        with closing(self._checks), closing(self._fetch.events()) as events:
            for event in self._continuous(events):
                if not isinstance(event, Chunk):
                    yield event
                    continue
                held.append(event)
                while len(held) > 1 and not self._checks.unsettled:
                    yield held.popleft()
            self._watch.report("verify", always=True)
            yield Checked(self._checks.evidence())
            yield from held

    def _continuous(self, events: Iterator[Event]) -> Iterator[Event]:
        """The bytes that were not handed out yet."""
        repeat: Any = None
        for event in events:
            if isinstance(event, Restart) and self._delivered:
                repeat = hashlib.new(self._algorithm())
            if not isinstance(event, Chunk):
                yield event
                continue
            chunk = event
            if repeat is not None:
                again = min(self._delivered - chunk.offset, len(chunk.data))
                view = memoryview(chunk.data)
                repeat.update(view[:again])
                if again + chunk.offset < self._delivered:
                    continue
                self._compare(repeat.hexdigest())
                repeat = None
                chunk = Chunk(self._delivered, view[again:], chunk.candidate)
            if len(chunk.data):
                self._checks.feed(chunk.data)
                self._delivered += len(chunk.data)
                yield chunk

    def _algorithm(self) -> str:
        return next(iter(self._checks.prefix()), DEFAULT)

    def _compare(self, repeated: str) -> None:
        before = self._checks.prefix()
        if not hmac.compare_digest(before.get(self._algorithm(), ""), repeated):
            raise ImageChanged(
                f"{self.image.ref}: the first {self._delivered} bytes changed before they were "
                "read again",
                hint="start the download again: the image was replaced",
            )
