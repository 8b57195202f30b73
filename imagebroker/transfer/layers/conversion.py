"""Conversion: hands out the disk that is in a verified image, in order, each byte once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple, Protocol

from imagebroker.backends.backend import Buffer
from imagebroker.exceptions import DestinationError, TooLarge
from imagebroker.model.image import Image
from imagebroker.transfer.fetch.events import Checked, Events, Unpacked
from imagebroker.transfer.layers.decompression import FREE
from imagebroker.transfer.limits import Watch
from imagebroker.transfer.store.kernel_copy import data_ranges
from imagebroker.verify.checksum import DEFAULT, Checksums

#: Bytes that are handed out at once.
_STEP = 1 << 20
_ZEROS = bytes(_STEP)


class Disk(Protocol):
    """Where the bytes of a disk come from."""

    size: int

    def pieces(self) -> Iterator[tuple[int, Buffer]]:
        """The pieces that are not zeros, in order, each with its position."""

    def close(self) -> None: ...


class PlainDisk:
    """A file that is the disk."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd, self.size = fd, size

    def pieces(self) -> Iterator[tuple[int, Buffer]]:
        try:
            for start, stop in data_ranges(self._fd, self.size):
                for at in range(start, stop, _STEP):
                    yield at, os.pread(self._fd, min(_STEP, stop - at), at)
        except OSError as error:
            raise DestinationError.wrap(error, "cannot read back the image") from error

    def close(self) -> None:
        pass


class Arrived(NamedTuple):
    """A verified image in a file."""

    image: Image
    #: Bytes.
    size: int
    evidence: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.evidence["disk_format"])


class Converted:
    """The bytes of the disk; at their end the evidence about it and the image it was in."""

    def __init__(self, arrived: Arrived, disk: Disk, watch: Watch) -> None:
        """:raises TooLarge: the disk is larger than the caller or the deployer allows."""
        self.image, self.size = arrived.image, disk.size
        self._arrived, self._disk = arrived, disk
        self._watch, self._data, self._position = watch.afterwards(disk.size), 0, 0
        if disk.size > watch.rules.max_size:
            raise TooLarge(
                f"{self.image.ref} has a disk of {disk.size} bytes in it, more than "
                f"{watch.rules.max_size}",
                hint="to allow it, raise max_size",
            )

    def events(self) -> Events:
        with closing(Checksums(())) as checksums:
            for piece in self._in_order():
                checksums.feed(piece)
                yield Unpacked(piece)
                self._position += len(piece)
                self._watch.done = self._position
                self._watch.check()
                self._watch.report("convert")
            self._watch.report("convert", always=True)
            raw = checksums.evidence(self.image.ref)[DEFAULT]
        yield Checked(self._evidence(raw))

    def _in_order(self) -> Iterator[Buffer]:
        for offset, data in self._disk.pieces():
            yield from self._zeros(offset)
            self._data += len(data)
            self._check_ratio()
            yield data
        yield from self._zeros(self._disk.size)

    def _zeros(self, stop: int) -> Iterator[Buffer]:
        """From where the last piece ended."""
        while self._position < stop:
            yield memoryview(_ZEROS)[: min(_STEP, stop - self._position)]

    def _check_ratio(self) -> None:
        """:raises TooLarge: a few bytes become very many."""
        most = self._watch.rules.max_compression_ratio
        if self._data > FREE + most * self._arrived.size:
            raise TooLarge(
                f"the disk in {self.image.ref} has more than {most} times the size of the image, "
                f"{self._arrived.size} bytes",
                hint="raise max_compression_ratio if the image really is that sparse",
            )

    def _evidence(self, raw: str) -> dict[str, Any]:
        """The digests are those of the image as it was published, and `raw_sha256`."""
        arrived = self._arrived
        return arrived.evidence | {
            "disk_format": "raw",
            "virtual_size": self._disk.size,
            "converted_from": arrived.kind,
            "converted_size": arrived.size,
            "raw_sha256": raw,
        }
