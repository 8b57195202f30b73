"""What is in a compressed image, in order, each byte once.

Checksums and signatures are those of the data as it was published; the format check and the limits
are for what comes out. An attempt that begins again repeats what was decoded already: the stream
below drops it, so that the decoder sees each byte once.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

from imagebroker.backends.backend import Buffer
from imagebroker.exceptions import TooLarge, TransferError
from imagebroker.model.image import Image
from imagebroker.transfer.fetch.candidates import Demands, Place
from imagebroker.transfer.fetch.versions import Joining, Versions
from imagebroker.transfer.layers.codecs import Unpacker
from imagebroker.transfer.layers.verified import Stream
from imagebroker.transfer.limits import Watch
from imagebroker.verify.checks import Required, declared_format
from imagebroker.verify.checksum import DEFAULT
from imagebroker.verify.disk_format import FormatPolicy

#: Bytes that may come out whatever the ratio is: disks begin with long runs of zeros.
FREE = 1 << 30


class Unpacked:
    """Iterate it as a `Stream`: its end means that every check has passed, of both sides.

    The last piece is held back until then.
    """

    def __init__(
        self,
        places: Sequence[Place],
        demands: Demands,
        watch: Watch,
        decompress: str,
        joining: Joining = Joining(),  # noqa: B008 - it is frozen
    ) -> None:
        """Open the first place that can be opened. :raises: as the backend's `open`."""
        self._formats, self._watch = demands.formats, watch
        demands = replace(demands, formats=None, unpacks=True)  # text is what it was before, too
        self._stream = Stream(places, demands, watch, joining)
        self._unpacker = Unpacker(self._stream.image.ref, decompress)
        #: What was computed, over which side; empty until the end.
        self.evidence: dict[str, Any] = {}
        #: Nobody knows before the end.
        self.size: int | None = None
        self._done = 0

    @property
    def image(self) -> Image:
        return self._stream.image

    @property
    def source(self) -> str:
        return self._stream.source

    @property
    def served(self) -> dict[str, int]:
        return self._stream.served

    @property
    def located(self) -> bool:
        return self._stream.located

    @property
    def versions(self) -> Versions:
        return self._stream.versions

    @property
    def attempts(self) -> int:
        return self._stream.attempts

    @property
    def resumed_from(self) -> int | None:
        return self._stream.resumed_from

    def __iter__(self) -> Generator[Buffer, None, None]:
        yield from self.verified()
        self._watch.report("done", always=True)

    def verified(self) -> Generator[Buffer, None, None]:
        """The pieces. That they end means that the checks have passed, not that all is done."""
        pieces = self._unpacker.unpacked(self._stream.verified())
        first = next(pieces, b"")
        checks = _required(self.image, self._unpacker.kind is not None, self._formats).start(None)
        try:
            held: Buffer = b""
            for piece in _after(first, pieces):
                if held:
                    yield held
                self._done += len(piece)
                self._check_limits()
                checks.feed(piece)
                held = piece
            self._check_empty()
            self.evidence = self._evidence(checks.evidence())
        finally:
            checks.close()
        if held:
            yield held

    def _check_limits(self) -> None:
        """:raises TooLarge: more comes out than is allowed."""
        self._watch.check()
        rules = self._watch.rules
        if self._done > rules.max_size:
            raise TooLarge(
                f"{self.image.ref} unpacks to more than {rules.max_size} bytes",
                hint="raise max_size if that is wanted",
            )
        if self._done > FREE + rules.max_compression_ratio * self._unpacker.taken:
            raise TooLarge(
                f"{self.image.ref} unpacks to {self._done} bytes from {self._unpacker.taken}, more "
                f"than {rules.max_compression_ratio} times as many",
                hint="raise max_compression_ratio if the image is that empty",
            )

    def _check_empty(self) -> None:
        if not self._done and self._unpacker.taken and not self._watch.rules.allow_empty:
            raise TransferError(
                f"{self.image.ref} has nothing in it",
                hint="pass allow_empty if it is meant to be empty",
                retryable=False,
            )

    def _evidence(self, content: dict[str, Any]) -> dict[str, Any]:
        """The digests are those of the data as it was published, the format that of the content."""
        evidence = dict(self._stream.evidence)
        kind = self._unpacker.kind
        if kind is not None:
            evidence["compression"] = kind.name
            evidence["compressed_size"] = self._unpacker.taken
            evidence["decompressed_sha256"] = content[DEFAULT]
        for name in (DEFAULT, "checked_against"):
            content.pop(name, None)
        return evidence | content

    def close(self) -> None:
        """Let go; idempotent."""
        self._stream.close()


def _after(first: Buffer, others: Iterator[Buffer]) -> Iterator[Buffer]:
    if first:
        yield first
    yield from others


def _required(image: Image, compressed: bool, formats: FormatPolicy | None) -> Required:
    """What must hold for the content alone."""
    if compressed and image.container_format == "compressed":
        image = replace(image, container_format="bare")  # as it is now
    return Required(image.ref, formats=formats, declared=declared_format(image))


def opened(
    places: Sequence[Place],
    demands: Demands,
    watch: Watch,
    decompress: str | None,
    joining: Joining = Joining(),  # noqa: B008 - it is frozen
) -> Stream | Unpacked:
    """The bytes for a destination that cannot go back, unpacked if the caller wants that."""
    if decompress is None:
        return Stream(places, demands, watch, joining)
    return Unpacked(places, demands, watch, decompress, joining)
