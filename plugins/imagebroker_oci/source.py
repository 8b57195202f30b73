"""The bytes of a disk that is a blob of its own: ranges of it, in parallel where that works."""

from __future__ import annotations

from collections.abc import Iterator

from imagebroker.plugin import (
    Buffer,
    Image,
    ImageRef,
    ImageSource,
    NotAuthorized,
    RangeIgnored,
)
from imagebroker_oci.blobs import opened
from imagebroker_oci.client import Registry
from imagebroker_oci.manifests import Descriptor
from imagebroker_oci.names import Name

#: Reads at once of a blob whose registry takes ranges but sends no ETag.
_PARALLEL_READS = 8


class BlobSource(ImageSource):
    """A blob is named by its digest, which the core verifies over the whole."""

    def __init__(
        self, registry: Registry, ref: ImageRef, name: Name, layer: Descriptor, record: Image,
        start: int = 0,
    ) -> None:  # fmt: skip
        self._registry, self._name, self._layer = registry, name, layer
        self._inner = opened(registry, ref, name, layer, start)
        self.image = record
        self.seekable = self._inner.seekable
        self.may_refuse_ranges = self._inner.may_refuse_ranges
        self.parallel_reads = self._inner.parallel_reads
        if self.seekable and not self.may_refuse_ranges and self.parallel_reads == 1:
            self.parallel_reads = _PARALLEL_READS
        self.coding = self._inner.coding

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        begun = False
        try:
            for block in self._inner.read(start, stop):
                begun = True
                yield block
            return
        except RangeIgnored:
            self.seekable = False
            raise
        except NotAuthorized:
            if begun:
                raise
        self._registry.renew(self._name, self._layer)
        yield from self._inner.read(start, stop)

    def ignore_version(self) -> None:
        """The servers that blobs are redirected to may have ETags of their own."""
        self._inner.ignore_version()

    def close(self) -> None:
        self._inner.close()
