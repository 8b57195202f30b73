"""A blob of a registry, read from its first byte to its last, and checked at the end."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator

from imagebroker.plugin import (
    ImageNotFound,
    ImageRef,
    MalformedAnswer,
    NotAuthorized,
    TransferError,
    http,
)
from imagebroker_oci.client import Registry, mismatch
from imagebroker_oci.manifests import Descriptor
from imagebroker_oci.names import Name


def opened(
    registry: Registry, ref: ImageRef, name: Name, descriptor: Descriptor, start: int = 0
) -> http.HttpSource:
    """The source of a blob's bytes.

    :raises ImageNotFound, NotAuthorized, TransferError: there is none.
    """
    url = registry.blob_url(name, descriptor)
    try:
        source = http.HttpSource(registry.http, ref, url, start=start)
    except NotAuthorized:
        registry.renew(name, descriptor)
        source = http.HttpSource(registry.http, ref, url, start=start)
    except ImageNotFound as error:
        raise ImageNotFound(
            f"{name.place} no longer has the blob {descriptor.digest}: {error}",
            hint="the image is not complete: push it again",
        ) from error
    size = source.image.size
    if size is not None and size != descriptor.size:
        source.close()
        raise MalformedAnswer(
            f"{name.place}, blob {descriptor.digest}: the registry sends {size} bytes, and the "
            f"manifest says {descriptor.size}",
            hint="the image is damaged: push it again",
        )
    return source


class Blob:
    """The content of a blob. It is read once; its digest is checked at the end."""

    def __init__(
        self, registry: Registry, ref: ImageRef, name: Name, descriptor: Descriptor
    ) -> None:
        self._what = f"{name.place}, blob {descriptor.digest}"
        self._descriptor = descriptor
        self._hash = hashlib.new(descriptor.algorithm)
        self._source = opened(registry, ref, name, descriptor)
        self._blocks = self._source.read()
        #: Bytes so far.
        self.received = 0

    def __iter__(self) -> Iterator[memoryview]:
        """:raises VerificationError: at the end: it has another digest."""
        for block in self._blocks:
            self._hash.update(block)
            self.received += len(block)
            yield memoryview(block)
        found = self._hash.hexdigest()
        if self.received < self._descriptor.size:
            raise TransferError(
                f"{self._what}: it ends {self._descriptor.size - self.received} bytes too early",
                hint="try again; if it happens again, check the server and the network",
            )
        if found != self._descriptor.hex:
            raise mismatch(self._what, self._descriptor, self.received, found)

    def close(self) -> None:
        """End it, from any thread."""
        self._source.close()
        close = getattr(self._blocks, "close", None)
        if close is not None:
            with contextlib.suppress(ValueError):  # another thread is in it, and leaves now
                close()
