"""A disk in chunks, a layer each: Tart's (packed with LZ4) and KubeSwift's (zeros left out)."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from imagebroker.plugin import (
    Buffer,
    Image,
    ImageRef,
    ImageSource,
    TransferError,
    VerificationError,
    peer,
)
from imagebroker_oci.blobs import Blob
from imagebroker_oci.choice import TART
from imagebroker_oci.client import Registry
from imagebroker_oci.manifests import Descriptor, Document
from imagebroker_oci.names import Name
from imagebroker_oci.read_ahead import in_order
from imagebroker_oci.unpacking import unpacked

#: Bytes of the config that says how large the disk is.
_MAX_CONFIG = 1024 * 1024
_TART_SIZE = "org.cirruslabs.tart.uncompressed-size"
_TART_DIGEST = "org.cirruslabs.tart.uncompressed-content-digest"
_OFFSET = "kubeswift.io/chunk-offset"
_ZEROS = bytes(1024 * 1024)


@dataclass(frozen=True)
class Chunk:
    """A part of the disk."""

    start: int
    stop: int
    #: None: zeros, which are not stored.
    layer: Descriptor | None = None
    coding: str = "none"
    #: The sha256 of its content, where the layer is packed.
    digest: str | None = None


class ChunkSource(ImageSource):
    """Reads begin at the chunk that has the byte: each is checked as a whole."""

    seekable = True

    def __init__(
        self, registry: Registry, ref: ImageRef, name: Name, chunks: Sequence[Chunk], record: Image
    ) -> None:
        self._registry, self._ref, self._name = registry, ref, name
        self._chunks = chunks
        self._lock = threading.Lock()
        self._open: set[Blob] = set()
        self._closed = False
        self.image = replace(record, size=chunks[-1].stop if chunks else 0)

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        size = self.image.size or 0
        end = size if stop is None else min(stop, size)
        wanted = [each for each in self._chunks if each.stop > start and each.start < end]
        if start >= end:
            return
        position = wanted[0].start
        mine: list[Blob] = []
        blocks = in_order(partial(self._content, each, mine) for each in wanted)
        try:
            for block in blocks:
                piece = memoryview(block)[max(0, start - position) : max(0, end - position)]
                position += len(block)
                if len(piece):
                    yield piece
                if position >= end and end < wanted[-1].stop:
                    return
        finally:
            for blob in list(mine):
                blob.close()
            blocks.close()

    def _content(self, chunk: Chunk, mine: list[Blob]) -> Iterator[Buffer]:
        """:raises VerificationError: at its end: it is another chunk."""
        if chunk.layer is None:
            yield from _zeros(chunk.stop - chunk.start)
            return
        what = f"{self._name}, chunk {chunk.layer.digest}"
        blob = self._opened(chunk.layer)
        mine.append(blob)
        try:
            yield from _checked(chunk, blob, what)
        finally:
            with self._lock:
                self._open.discard(blob)
            blob.close()

    def _opened(self, layer: Descriptor) -> Blob:
        """:raises TransferError: the source was closed."""
        blob = None if self._closed else Blob(self._registry, self._ref, self._name, layer)
        with self._lock:
            if blob is not None and not self._closed:
                self._open.add(blob)
                return blob
        if blob is not None:
            blob.close()
        raise TransferError(f"{self._name}: the source was closed")

    def close(self) -> None:
        with self._lock:
            self._closed = True
            blobs = list(self._open)
        for blob in blobs:
            blob.close()


def _checked(chunk: Chunk, blob: Blob, what: str) -> Iterator[Buffer]:
    blocks = iter(blob)
    left = chunk.stop - chunk.start
    digest = None if chunk.digest is None else hashlib.sha256()
    for block in unpacked(chunk.coding, blocks, what):
        left -= len(block)
        if left < 0:
            raise VerificationError(
                f"{what} has more than {chunk.stop - chunk.start} bytes",
                hint="do not use the image, and report it to its owner",
            )
        if digest is not None:
            digest.update(block)
        yield block
    for _ in blocks:
        pass  # what follows the packed data counts for the digest of the layer
    if left:
        raise VerificationError(
            f"{what} has {left} bytes less than the manifest says",
            hint="do not use the image, and report it to its owner",
        )
    if digest is not None and digest.hexdigest() != chunk.digest:
        raise VerificationError(
            f"{what} should have the content {chunk.digest}, and has {digest.hexdigest()}",
            hint="do not use the image, and report it to its owner",
        )


def _zeros(count: int) -> Iterator[Buffer]:
    view = memoryview(_ZEROS)
    while count:
        yield view[:count]
        count -= min(count, len(_ZEROS))


def plan(
    registry: Registry, name: Name, manifest: Document, layers: Sequence[Descriptor]
) -> list[Chunk]:
    """What the disk consists of, from its first byte to its last.

    :raises MalformedAnswer: the manifest does not say so.
    """
    who = f"the manifest of {name}"
    if layers and layers[0].media_type == TART:
        return _tart(who, layers)
    return _kubeswift(who, _total(registry, name, manifest, who), layers)


def _tart(who: str, layers: Sequence[Descriptor]) -> list[Chunk]:
    """One after the other, each packed."""
    found: list[Chunk] = []
    position = 0
    for layer in layers:
        size = _number(who, layer, _TART_SIZE)
        digest = layer.annotations.get(_TART_DIGEST, "")
        algorithm, _, digits = digest.partition(":")
        if algorithm != "sha256" or len(digits) != 64:
            peer.malformed(who, f"a chunk without the annotation {_TART_DIGEST}")
        found.append(Chunk(position, position + size, layer, "lz4", digits.lower()))
        position += size
        _check_size(who, position)
    return found


def _kubeswift(who: str, total: int, layers: Sequence[Descriptor]) -> list[Chunk]:
    """Each at its place; what lies between them is zeros."""
    placed = sorted(((_number(who, layer, _OFFSET), layer) for layer in layers), key=_place)
    found: list[Chunk] = []
    position = 0
    for offset, layer in placed:
        if offset < position or offset + layer.size > total:
            peer.malformed(who, f"the chunk at byte {offset} is not within its disk")
        if offset > position:
            found.append(Chunk(position, offset))
        position = offset + layer.size
        if layer.size:
            found.append(Chunk(offset, position, layer))
    if position < total:
        found.append(Chunk(position, total))
    return found


def _place(item: tuple[int, Descriptor]) -> int:
    return item[0]


def _total(registry: Registry, name: Name, manifest: Document, who: str) -> int:
    if manifest.config is None:
        peer.malformed(who, "it has no config that says how large the disk is")
    config = peer.document(registry.blob(name, manifest.config, _MAX_CONFIG), dict, who)
    total = peer.number(config.get("totalSize"), "totalSize", who)
    if total is None:
        peer.malformed(who, "its config has no totalSize")
    _check_size(who, total)
    return total


def _number(who: str, layer: Descriptor, annotation: str) -> int:
    text = layer.annotations.get(annotation, "")
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        peer.malformed(who, f"a chunk without a number in the annotation {annotation}")
    return int(text)


def _check_size(who: str, size: int) -> None:
    if size > peer.MAX_INT:
        peer.malformed(who, "its chunks have more bytes than a disk can have")
