"""The cache around a transfer: a copy of the entry where there is one, a new entry afterwards."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing
from typing import Any, NamedTuple

from imagebroker.exceptions import (
    Cancelled,
    ConfigError,
    DestinationError,
    ImageBrokerError,
    UnsupportedOperation,
)
from imagebroker.model.image import Image
from imagebroker.redaction import redact
from imagebroker.system.owned_directory import OwnedByAnother
from imagebroker.transfer.demands import Demands
from imagebroker.transfer.layers.cache import Cache, Cached, Entry
from imagebroker.transfer.layers.entitlement import Entitlement
from imagebroker.transfer.limits import Watch
from imagebroker.transfer.reader import ImageReader
from imagebroker.transfer.store.part_file import PartFile
from imagebroker.transfer.transfer import Transfer

LOG = logging.getLogger(__name__)


class Found(NamedTuple):
    """An entry that this caller may have, in use until it is closed."""

    entry: Entry
    #: The record of it.
    image: Image

    def close(self) -> None:
        self.entry.close()


class CacheLayer:
    """The cache, for one call. Errors of the cache do not fail the call."""

    def __init__(self, cache: Cache, entitlement: Entitlement, ref: str) -> None:
        self._cache, self._entitlement, self._ref = cache, entitlement, ref
        #: It is another user's, who shares the config file.
        self._left_out = False

    def find(self, demands: Demands) -> Found | None:
        """The entry for this caller; None if there is none."""
        try:
            if self._cache.is_empty():
                return None
            image = self._entitlement.ask()
            if image is None:
                return None
            entry = self._cache.find(self._entitlement.keys(image))
        except OwnedByAnother as error:
            LOG.warning("%s: the cache is not used", error)
            self._left_out = True
            return None
        except OSError as error:
            LOG.warning("the cache %s cannot be used: %s", self._cache.path, error)
            return None
        if entry is None:
            return None
        if image.size not in (None, entry.cached.size):
            entry.close()
            return None
        return Found(entry, demands.record or image)

    def copying(self, transfer: Transfer, found: Found) -> Transfer:
        """The same from the entry. It is verified like any other, and must have its digest."""
        demands, cached = transfer.demands, found.entry.cached
        known = [(each.algorithm, each.digest) for each in demands.checksums]
        known += list(found.image.checksums.items())
        if (cached.algorithm, cached.digest) not in known:
            demands = demands._replace(checksums=(*demands.checksums, found.entry.checksum))
        candidate = found.entry.candidate(self._ref, found.image)
        return transfer._replace(candidates=[candidate], demands=demands)

    def failed(self, error: ImageBrokerError, found: Found, watch: Watch) -> None:
        """The entry could not be copied: drop it if it is damaged, and go on without it.

        :raises: `error`, where another source would not help.
        """
        if (
            isinstance(error, (DestinationError, Cancelled, UnsupportedOperation))
            or watch.left <= 0
        ):
            raise error
        LOG.warning("the cached copy of %s cannot be used: %s", redact(self._ref), error)
        if not found.entry.is_intact():
            self._cache.drop(found.entry)

    def keep(self, part: PartFile | None, evidence: Mapping[str, Any], image: Image) -> None:
        """The image is in place: what goes wrong now costs a later download its cached copy."""
        if part is None or self._left_out:
            return
        keys = self._entitlement.keys(image)
        try:
            stored = self._cache.store(part.fileno(), part.size, evidence, keys, image)
        except (OSError, ConfigError) as error:
            LOG.warning("%s is not cached: %s", redact(self._ref), error)
        else:
            if not stored:
                LOG.info("%s is not cached: there is no room for it", redact(self._ref))

    def present(self, demands: Demands) -> Cached | None:
        """The entry of an image that is in the cache, intact."""
        found = self.find(demands)
        if found is None:
            return None
        with closing(found):
            if found.entry.is_intact():
                return found.entry.cached
            self._cache.drop(found.entry)
        return None

    def load(self, reader: ImageReader) -> Cached:
        """Store the bytes of a reader in the cache.

        :raises UnsupportedOperation: its size is not known. :raises DestinationError: no room.
        """
        if reader.size is None:
            raise UnsupportedOperation(
                f"{reader.image.ref}: its size is not known, so no room can be made for it"
            )
        keys = self._entitlement.keys(reader.image)
        try:
            name = self._cache.store_chunks(
                reader, reader.size, lambda: reader.evidence, keys, reader.image
            )
        except OSError as error:
            raise DestinationError.wrap(error, f"cannot write to {self._cache.path}") from error
        for cached in self._cache.entries() if name else ():
            if cached.name == name:
                return cached
        raise DestinationError(
            f"{reader.image.ref} has {reader.size} bytes, and the cache has no room for it",
            hint="raise cache_size, or wait until cached images are no longer in use",
        )
