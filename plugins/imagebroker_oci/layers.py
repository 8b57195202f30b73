"""containerDisk: a disk is a file below `/disk` in a layer of a container image."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import replace

from imagebroker.plugin import (
    Buffer,
    Image,
    ImageNotFound,
    ImageRef,
    ImageSource,
    MalformedAnswer,
    TooLarge,
    TransferError,
    UnsupportedOperation,
    printable,
)
from imagebroker_oci.blobs import Blob
from imagebroker_oci.choice import tar_coding
from imagebroker_oci.client import Registry
from imagebroker_oci.manifests import Descriptor
from imagebroker_oci.names import Name
from imagebroker_oci.unpacking import unpacked

#: Where the disk is.
_FOLDER = "disk/"
#: What may stand before it: entries of the archive, bytes of a header that is read at once, and
#: bytes of all layers that are looked through.
_MAX_ENTRIES, _MAX_HEADER, _MAX_SKIPPED = 10_000, 1024 * 1024, 256 * 1024 * 1024
#: Bytes of a read from the archive.
_CHUNK = 1024 * 1024


class TarSource(ImageSource):
    """The file in the last layer that has one in `/disk`. It is read from its first byte on."""

    def __init__(
        self, registry: Registry, ref: ImageRef, name: Name, layers: Sequence[Descriptor],
        record: Image,
    ) -> None:  # fmt: skip
        """:raises ImageNotFound: no layer has a disk."""
        self._registry, self._ref, self._name = registry, ref, name
        self._budget = _Budget()
        self._opened: _Entry | None = None
        self._closed = False
        try:
            self._opened = self._found(layers)
        except BaseException:
            self.close()
            raise
        self._layer = self._opened.layer
        self.image = replace(record, size=self._opened.size)

    def _found(self, layers: Sequence[Descriptor]) -> _Entry:
        for layer in reversed(layers):  # a later layer hides what is below it
            entry = self._entry(layer)
            if entry is not None:
                return entry
        raise ImageNotFound(
            f"{self._name} is a container image without a disk: no layer has a file in /disk",
            hint="choose an image that was made as a containerDisk",
        )

    def _entry(self, layer: Descriptor) -> _Entry | None:
        entry = self._opened = _Entry(self._registry, self._ref, self._name, layer, self._budget)
        if entry.find():
            return entry
        entry.close()
        return None

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        size = self.image.size or 0
        end = size if stop is None else min(stop, size)
        entry, self._opened = self._opened, None
        if entry is None:
            self._budget = _Budget()
            entry = self._entry(self._layer)
            self._opened = None
        if entry is None or self._closed:
            raise TransferError(f"{self._name}: the source was closed")
        self._reading = entry
        try:
            position = 0
            for block in entry.data():
                piece = memoryview(block)[max(0, start - position) : max(0, end - position)]
                position += len(block)
                if len(piece):
                    yield piece
                if position >= end and end < size:
                    return
            entry.finish()
        finally:
            entry.close()

    _reading: _Entry | None = None

    def close(self) -> None:
        self._closed = True
        for entry in (self._opened, self._reading):
            if entry is not None:
                entry.close()


class _Budget:
    """How much may be looked through until a disk is found, in all layers together."""

    def __init__(self) -> None:
        self.entries, self.skipped = 0, 0

    def count(self, name: Name, entries: int, skipped: int) -> None:
        self.entries += entries
        self.skipped += skipped
        if self.entries > _MAX_ENTRIES or self.skipped > _MAX_SKIPPED:
            raise TooLarge(
                f"{name} has no disk in its first {_MAX_ENTRIES} files or "
                f"{_MAX_SKIPPED // 1024**2} MiB",
                hint="choose an image that was made as a containerDisk",
            )


class _Entry:
    """The file in one layer, and what is read to find it."""

    def __init__(
        self, registry: Registry, ref: ImageRef, name: Name, layer: Descriptor, budget: _Budget
    ) -> None:
        self.layer, self.path = layer, ""
        self.size = 0
        self._name, self._budget = name, budget
        self._what = f"{name}, layer {layer.digest}"
        self._blob = Blob(registry, ref, name, layer)
        self._blocks = iter(self._blob)
        self._archive = _Archive(
            unpacked(tar_coding(layer) or "tar", self._blocks, self._what), self
        )

    def find(self) -> bool:
        """Read on to the disk; False at the end of the layer."""
        try:
            with tarfile.TarFile(fileobj=self._archive, mode="r") as archive:  # type: ignore[arg-type]
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]
                    self._budget.count(self._name, 1, 0)
                    if member.size < 0:
                        raise tarfile.HeaderError("a file with less than no bytes")
                    if self._is_disk(member):
                        self._archive.seek(member.offset_data)
                        self.path, self.size = member.name, member.size
                        return True
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
            raise MalformedAnswer(
                f"{self._what} is not a valid tar archive: {printable(str(error), 100)}",
                hint="the image was damaged before it was pushed",
                retryable=False,
            ) from error
        for block in self._blocks:  # its digest covers all of it
            self.skipped(len(block))
        return False

    def _is_disk(self, member: tarfile.TarInfo) -> bool:
        path = member.name.removeprefix("./").lstrip("/")
        file = path.removeprefix(_FOLDER)
        if file == path or not file or "/" in file or file.startswith(".wh."):
            return False
        if member.isdir():
            return False
        if not member.isreg() or member.issparse():
            raise UnsupportedOperation(
                f"{self._what}: /disk/{printable(file, 100)} is not a plain file",
                hint="build the image with the disk itself in /disk, not with a link to it",
            )
        return True

    def skipped(self, count: int) -> None:
        self._budget.count(self._name, 0, count)

    def data(self) -> Iterator[Buffer]:
        """The content of the file.

        :raises TransferError: the archive ends within it.
        """
        left = self.size
        while left:
            block = self._archive.some(left)
            if not block:
                raise TransferError(
                    f"{self._what}: the archive ends {left} bytes too early",
                    hint="the image is damaged: push it again", retryable=False,
                )  # fmt: skip
            left -= len(block)
            yield block

    def finish(self) -> None:
        """Read the rest of the layer: its digest covers all of it.

        :raises VerificationError: it is another one.
        """
        for _ in self._blocks:
            pass

    def close(self) -> None:
        self._blob.close()


class _Archive:
    """What tarfile reads headers from: forward only, and never much at once."""

    def __init__(self, blocks: Iterator[bytes | memoryview], owner: _Entry) -> None:
        self._blocks, self._owner = blocks, owner
        self._block: bytes | memoryview = b""
        self._position = 0

    def some(self, most: int) -> bytes | memoryview:
        """What is there, at most so much; empty at the end."""
        while not len(self._block):
            block = next(self._blocks, None)
            if block is None:
                return b""
            self._block = block
        piece, self._block = self._block[:most], self._block[most:]
        self._position += len(piece)
        return piece

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _MAX_HEADER:
            raise tarfile.HeaderError(f"a header of {count} bytes")
        pieces = []
        while count and len(piece := self.some(count)):
            pieces.append(bytes(piece))
            count -= len(piece)
            self._owner.skipped(len(piece))
        return b"".join(pieces)

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, whence: int = 0) -> int:
        if whence or position < self._position:
            raise tarfile.StreamError("seeking backwards")
        while self._position < position:
            piece = self.some(min(_CHUNK, position - self._position))
            if not len(piece):
                raise tarfile.ReadError("unexpected end of data")
            self._owner.skipped(len(piece))
        return self._position

    def close(self) -> None:
        pass
