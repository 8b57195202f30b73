"""Decompression: hands out what is in a compressed image, in order, each byte once.

Checksums and signatures are those of the data as it was published. Whatever would be refused if it
had been published without compression is refused once it is decompressed: a format, a web page, a
size. An attempt that begins again repeats what was decoded already: the layer below drops it, so
that the decoder sees each byte once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

from imagebroker.backends.backend import Buffer
from imagebroker.exceptions import ImageBrokerError, TooLarge, TransferError
from imagebroker.model.image import Image
from imagebroker.transfer.codecs import Unpacker
from imagebroker.transfer.fetch.events import Checked, Chunk, Content, Event, Events, Unpacked
from imagebroker.transfer.limits import Watch
from imagebroker.verify.checks import Required, declared_format
from imagebroker.verify.checksum import DEFAULT
from imagebroker.verify.disk_format import FormatPolicy

#: Bytes that may come out whatever the ratio is: disks begin with long runs of zeros.
FREE = 1 << 30


class Decompressed:
    """The last piece is held back until the checks have passed, of both sides."""

    def __init__(
        self,
        below: Content,
        decompress: str,
        required: Required,
        formats: FormatPolicy | None,
        watch: Watch,
    ) -> None:
        """`decompress`: a kind, or `auto`. `required`: of the data as it was published. `formats`:
        what the content may be."""
        self._below, self._watch = below, watch
        self._published, self._formats = required, formats
        self._unpacker = Unpacker(below.image.ref, decompress)
        self._done = 0
        #: Unknown until the end.
        self.size: int | None = None

    @property
    def image(self) -> Image:
        return self._below.image

    def events(self) -> Events:
        with closing(_Below(self._below.events())) as below:
            try:
                yield from self._unpacked(below)
            except ImageBrokerError:
                yield from below.news()
                raise

    def _unpacked(self, below: _Below) -> Events:
        pieces = self._unpacker.unpacked(below.chunks())
        first: Buffer = next(pieces, b"")  # now it is known whether it is compressed at all
        held: Buffer = b""
        with closing(self._content().start(None)) as checks:
            for piece in _after(first, pieces):
                yield from below.news()
                if held:
                    yield Unpacked(held)
                self._done += len(piece)
                self._check_limits()
                checks.feed(piece)
                held = piece
            yield from below.news()
            self._check_empty()
            yield Checked(self._evidence(below.evidence, checks.evidence()))
        if held:
            yield Unpacked(held)

    def _content(self) -> Required:
        """The checks of the content alone."""
        image = self.image
        if self._unpacker.kind is not None and image.container_format == "compressed":
            image = replace(image, container_format="bare")  # as it is now
        return replace(
            self._published, checksums=(), signature=None, formats=self._formats,
            declared=declared_format(image),
        )  # fmt: skip

    def _check_limits(self) -> None:
        """:raises TooLarge: more comes out than is allowed."""
        self._watch.check()
        rules = self._watch.rules
        if self._done > rules.max_size:
            raise TooLarge(
                f"{self.image.ref} decompresses to more than {rules.max_size} bytes",
                hint="to allow it, raise max_size",
            )
        if self._done > FREE + rules.max_compression_ratio * self._unpacker.taken:
            raise TooLarge(
                f"{self.image.ref}: {self._unpacker.taken} bytes decompress to {self._done}, more "
                f"than {rules.max_compression_ratio} times the size",
                hint="raise max_compression_ratio if the image really is that sparse",
            )

    def _check_empty(self) -> None:
        if not self._done and self._unpacker.taken and not self._watch.rules.allow_empty:
            raise TransferError(
                f"{self.image.ref} is empty when decompressed",
                hint="pass allow_empty if it is meant to be empty",
                retryable=False,
            )

    def _evidence(self, published: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
        """The digests are those of the data as it was published, the format that of the content."""
        evidence = dict(published)
        kind = self._unpacker.kind
        if kind is not None:
            evidence["compression"] = kind.name
            evidence["compressed_size"] = self._unpacker.taken
            evidence["decompressed_sha256"] = content[DEFAULT]
        for name in (DEFAULT, "checked_against"):
            content.pop(name, None)
        return evidence | content


class _Below:
    """The events of the layer below: its chunks for the decoder, the others to be handed on."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._news: deque[Event] = deque()
        self.evidence: dict[str, Any] = {}

    def chunks(self) -> Generator[Buffer, None, None]:
        for event in self._events:
            if isinstance(event, Chunk):
                yield event.data
            elif isinstance(event, Checked):
                self.evidence = event.evidence
            else:
                self._news.append(event)

    def news(self) -> Iterator[Event]:
        while self._news:
            yield self._news.popleft()

    def close(self) -> None:
        self._events.close()


def _after(first: Buffer, others: Iterator[Buffer]) -> Iterator[Buffer]:
    if first:
        yield first
    yield from others
