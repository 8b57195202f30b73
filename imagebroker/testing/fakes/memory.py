"""Images in memory: a whole backend, for the unit tests of services."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, ClassVar

from imagebroker.plugin import (
    ACTIVE,
    BackendHost,
    Buffer,
    Conflict,
    Context,
    Gone,
    Image,
    ImageBackend,
    ImageData,
    ImageNotFound,
    ImageQuery,
    ImageRef,
    ImageSource,
    NotAuthorized,
    NotReady,
    RefForm,
    TransferError,
    UploadFailed,
    visible,
)

#: Bytes in one chunk.
CHUNK = 64 * 1024


@dataclass
class Stored:
    """One image, and what is to go wrong with it."""

    image: Image
    data: bytes | None = None
    #: Raised by the next `open`.
    open_error: Exception | None = None
    #: The next read breaks after so many bytes with this error; None waits until `close`.
    breaks: tuple[int, Exception | None] | None = None


class Shelf:
    """Images by id or by URI. One may be shared by several backends."""

    def __init__(self) -> None:
        self._images: dict[str, Stored] = {}
        self.lock = threading.RLock()

    def put(self, key: str, stored: Stored) -> None:
        with self.lock:
            self._images[key] = stored

    def find(self, key: str) -> Stored:
        """:raises ImageNotFound: it is not there."""
        with self.lock:
            found = self._images.get(key)
        if found is None:
            raise ImageNotFound(f"{key}: no such image", hint="check the id or the URI")
        return found

    def has(self, key: str) -> bool:
        return key in self._images

    def remove(self, key: str) -> None:
        with self.lock:
            self._images.pop(key, None)

    def clear(self) -> None:
        with self.lock:
            self._images.clear()

    def images(self) -> list[Image]:
        with self.lock:
            return [stored.image for stored in self._images.values()]


class MemorySource(ImageSource):
    """The bytes that an image had when it was opened."""

    seekable = True
    parallel_reads = 4

    def __init__(self, image: Image, stored: Stored) -> None:
        self.image = image
        self._stored, self._data = stored, stored.data or b""
        self._closed = threading.Event()

    def read(self, start: int = 0, stop: int | None = None) -> Iterator[Buffer]:
        breaks, self._stored.breaks = self._stored.breaks, None
        end = len(self._data) if stop is None else min(stop, len(self._data))
        upto = end if breaks is None else min(end, start + breaks[0])
        for at in range(start, upto, CHUNK):
            yield self._data[at : min(at + CHUNK, upto)]
        if breaks is not None:
            if breaks[1] is None:
                self._closed.wait()
            raise breaks[1] or TransferError(f"{self.image.ref} was closed")

    def close(self) -> None:
        self._closed.set()


class MemoryBackend(ImageBackend):
    """Keeps images in the class's `shelf`: subclass it with a shelf and a name of your own."""

    api_version = 1
    name = "memory"
    ref_form = RefForm(id=True)
    #: Where the images are; that of the class is everybody's.
    shelf = Shelf()
    source_class: ClassVar[type[MemorySource]] = MemorySource

    def __init__(self, host: BackendHost) -> None:
        self.host = host

    def open(self, context: Context, ref: ImageRef) -> ImageSource:
        stored = self._find(context, ref)
        error, stored.open_error = stored.open_error, None
        if error is not None:
            raise error
        if stored.data is None:
            raise NotReady(f"{ref} has no data yet", hint="wait until it is uploaded")
        return self.source_class(self._named(stored.image, ref), stored)

    def get(
        self,
        context: Context,
        ref: ImageRef,
        *,
        include_locations: bool = False,
        show_deleted: bool = False,
    ) -> Image:
        return self._named(self._find(context, ref, deleted=show_deleted).image, ref)

    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        return query.apply(
            replace(image, ref=self.host.ref(str(image.id)))
            for image in self.shelf.images()
            if image.id and self._sees(context, image)
        )

    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        image_id = image.id or str(uuid.uuid4())
        content = None if data is None else _received(data)
        now = datetime.now(UTC)
        with self.shelf.lock:
            if self.shelf.has(image_id):
                raise Conflict(f"the id {image_id} exists", hint="choose another one")
            new = replace(
                image, ref=self.host.ref(image_id), id=image_id, created_at=now,
                owner=image.owner or getattr(context, "project_id", None),
                visibility=image.visibility or "shared", status="queued",
            )  # fmt: skip
            stored = Stored(with_data(new, content), content)
            self.shelf.put(image_id, stored)
        return stored.image

    def update(
        self,
        context: Context,
        ref: ImageRef,
        changes: Mapping[str, Any],
        data: ImageData | None,
        purge_props: bool,
    ) -> Image:
        stored = self._find(context, ref)
        content = None if data is None else _received(data)
        with self.shelf.lock:
            if content is not None and stored.data is not None:
                raise Conflict(f"{ref} has its data already", hint="create another image")
            fields = dict(changes)
            if "properties" in fields:
                kept = {} if purge_props else dict(stored.image.properties)
                fields["properties"] = _merged(kept, fields["properties"] or {})
            fields["updated_at"] = datetime.now(UTC)
            stored.image = replace(stored.image, **fields)
            if content is not None:
                stored.image, stored.data = with_data(stored.image, content), content
        return self._named(stored.image, ref)

    def delete(self, context: Context, ref: ImageRef) -> None:
        image = self._find(context, ref).image
        if image.protected:
            raise Conflict(f"{ref} is protected", hint="set protected to false first")
        self.shelf.put(key_of(ref), Stored(replace(image, deleted_at=datetime.now(UTC))))

    def _find(self, context: Context, ref: ImageRef, deleted: bool = False) -> Stored:
        stored = self.shelf.find(key_of(ref))
        if not self._sees(context, stored.image):
            raise NotAuthorized(f"{ref} is not yours", hint="ask its owner to share it")
        if stored.image.deleted and not deleted:
            raise Gone(f"{ref} was deleted", hint="look for another image")
        return stored

    def _sees(self, context: Context, image: Image) -> bool:
        if context is None or image.owner is None:
            return True
        return visible(image, is_admin=bool(context.is_admin), project=context.project_id)

    def _named(self, image: Image, ref: ImageRef) -> Image:
        """The record as this instance gives it out."""
        return replace(image, ref=ref.text if ref.id is None else self.host.ref(ref.id))


def key_of(ref: ImageRef) -> str:
    """What a shelf knows the image of a ref by."""
    return ref.id.lower() if ref.id is not None else ref.text


def _received(data: ImageData) -> bytes:
    content = b"".join(data)
    if not data.complete:
        raise UploadFailed("the data ended early", hint="create the image again")
    return content


def with_data(image: Image, data: bytes | None) -> Image:
    """The record of an image that has these bytes."""
    if data is None:
        return image
    digest = hashlib.sha256(data).hexdigest()
    return replace(
        image, status=ACTIVE, size=len(data), checksums={**image.checksums, "sha256": digest},
        version=digest,
    )  # fmt: skip


def _merged(properties: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**properties, **changes}
    return {name: value for name, value in merged.items() if value is not None}
