"""Downloads through the local cache: from it where it has the image, into it otherwise."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from imagebroker.exceptions import (
    Cancelled,
    ConfigError,
    DestinationError,
    ImageBrokerError,
    UnsupportedOperation,
)
from imagebroker.model.image import Image
from imagebroker.redaction import redact
from imagebroker.transfer import download
from imagebroker.transfer.download import Download
from imagebroker.transfer.fetch.candidates import Demands, Place
from imagebroker.transfer.layers.cache import Cache, Cached, Entry
from imagebroker.transfer.layers.single_flight import Share
from imagebroker.transfer.limits import Watch
from imagebroker.transfer.reader import ImageReader
from imagebroker.transfer.store.part_file import PartFile

LOG = logging.getLogger(__name__)


class ThroughCache:
    """One call that may find its image in the cache."""

    def __init__(self, cache: Cache, demands: Demands, watch: Watch, share: Share) -> None:
        self._cache, self._demands = cache, demands
        self._watch, self._share = watch, share

    def to_path(self, places: Sequence[Place], part: PartFile, path: Path) -> Download:
        """As `download.to_path`. A copy of a cached image is verified like any other."""
        found = self._find()
        if found is not None:
            with closing(found[0]):
                done = self._copied(*found, part, path)
            if done is not None:
                return done
        share = self._share
        done = download.to_path(share.places(places), self._demands, part, self._watch, path, share)
        if not share.was_local:
            self._keep(part, done)
        return done

    def _find(self) -> tuple[Entry, Image] | None:
        """What the cache has for this caller, and the record of it."""
        try:
            if self._cache.is_empty():
                return None
            image = self._share.entitlement.ask()
            if image is None:
                return None
            entry = self._cache.find(self._share.entitlement.keys(image))
        except OSError as error:
            LOG.warning("the cache %s cannot be used: %s", self._cache.path, error)
            return None
        if entry is None:
            return None
        if image.size not in (None, entry.cached.size):
            entry.close()
            return None
        return entry, self._demands.record or image

    def _copied(self, entry: Entry, image: Image, part: PartFile, path: Path) -> Download | None:
        """None if what is cached is not the image after all."""
        demands = self._demands
        known = [(c.algorithm, c.digest) for c in demands.checksums]
        known += list(image.checksums.items())
        if (entry.cached.algorithm, entry.cached.digest) not in known:
            demands = replace(demands, checksums=(*demands.checksums, entry.checksum))
        place = entry.place(self._share.place.ref, image)
        try:
            return download.to_path([place], demands, part, self._watch, path, self._share)
        except (DestinationError, Cancelled):
            raise
        except ImageBrokerError as error:
            if self._watch.left <= 0:
                raise
            LOG.warning("the cached copy of %s cannot be used: %s", redact(place.ref), error)
            if not entry.is_intact():
                self._cache.drop(entry)
            part.rewind()
            self._share.was_local = False
            return None

    def _keep(self, part: PartFile, done: Download) -> None:
        """The image is in place: what goes wrong now costs a later download its cached copy."""
        keys = self._share.entitlement.keys(done.image)
        try:
            stored = self._cache.store(part.fileno(), done.size, done.evidence, keys)
        except (OSError, ConfigError) as error:
            LOG.warning("%s is not cached: %s", redact(self._share.place.ref), error)
        else:
            if not stored:
                LOG.info("%s is not cached: there is no room for it", redact(self._share.place.ref))

    def present(self) -> Cached | None:
        """The entry of an image that is in the cache, intact."""
        found = self._find()
        if found is None:
            return None
        entry, _ = found
        with closing(entry):
            if entry.is_intact():
                return entry.cached
            self._cache.drop(entry)
        return None

    def load(self, reader: ImageReader) -> Cached:
        """What a reader reads, into the cache.

        :raises UnsupportedOperation: nobody knows its size. :raises DestinationError: no room.
        """
        if reader.size is None:
            raise UnsupportedOperation(
                f"{reader.image.ref}: its size is not known, so no room can be made for it"
            )
        keys = self._share.entitlement.keys(reader.image)
        try:
            stored = self._cache.store_chunks(reader, reader.size, lambda: reader.evidence, keys)
        except OSError as error:
            raise DestinationError.wrap(error, f"cannot write to {self._cache.path}") from error
        for cached in self._cache.entries() if stored else ():
            if reader.evidence.get(cached.algorithm) == cached.digest:
                return cached
        raise DestinationError(
            f"{reader.image.ref} has {reader.size} bytes, and the cache has no room for it",
            hint="raise cache_size, or wait until what is cached is no longer in use",
        )
