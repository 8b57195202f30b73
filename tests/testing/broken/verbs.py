"""Backends whose other verbs break a clause."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from imagebroker.plugin import (
    FAILURE,
    Context,
    Finding,
    Image,
    ImageData,
    ImageNotFound,
    ImageQuery,
    ImageRef,
    ImageSource,
    TransferError,
)
from imagebroker.testing.fakes.memory import MemoryBackend
from tests.testing import hookups
from tests.testing.broken.register import broken
from tests.testing.peers import (
    StoringLineBackend,
)


@broken("C19")
class GetSaysSomethingElse(MemoryBackend):
    def get(self, *arguments: Any, **flags: bool) -> Image:
        return replace(super().get(*arguments, **flags), version=None, size=0)


@broken("C20")
class ListsTwice(MemoryBackend):
    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        found = list(super().get_all(context, query))
        return iter([*found, *found][: query.limit])


@broken("C20")
class IgnoresTheLimit(MemoryBackend):
    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        return super().get_all(context, replace(query, limit=None))


@broken("C20")
class IgnoresTheFilters(MemoryBackend):
    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        return super().get_all(context, replace(query, filters={}))


@broken("C20")
class IgnoresOneFilter(MemoryBackend):
    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        known = {name: value for name, value in query.filters.items() if name != "size_max"}
        return super().get_all(context, replace(query, filters=known))


@broken("C20")
class IgnoresTheOrder(MemoryBackend):
    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        return super().get_all(context, replace(query, sort_key="name", sort_dir="asc"))


@broken("C20")
class IgnoresTheMarker(MemoryBackend):
    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        return super().get_all(context, replace(query, marker=None))


@broken("C20")
class ListsAPageOnly(MemoryBackend):
    def get_all(self, context: Context, query: ImageQuery) -> Iterator[Image]:
        return super().get_all(context, replace(query, limit=query.page_size or query.limit))


class Draft(MemoryBackend):
    """Stores in its own way."""

    def keep(self, image: Image, data: bytes) -> Image:
        with MemoryBackend.shelf.lock:
            return super().create(None, image, ImageData(data))


@broken("C21")
class LosesTheEnd(Draft):
    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        return self.keep(image, b"".join(data or ())[:-1])


@broken("C21")
class KeepsHalfAnUpload(Draft):
    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        kept = b""
        try:
            for chunk in data or ():
                kept += chunk
        except Exception:
            self.keep(image, kept)
            raise
        return self.keep(image, kept)


@broken("C21")
class TakesAnIdTwice(MemoryBackend):
    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        if image.id is not None:
            self.shelf.remove(image.id)
        return super().create(context, image, data)


@broken("C21")
class NeedsTheSize(MemoryBackend):
    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        if data is not None and data.size is None:
            raise TypeError("how many bytes?")
        return super().create(context, image, data)


@broken("C22", hookups.StoringContract)
class SendsAgainWhatCannotBeRewound(StoringLineBackend):
    def send(self, ref: ImageRef, path: str, data: ImageData) -> None:
        for _ in range(3):
            try:
                return super().send(ref, path, data)
            except TransferError as error:
                last = error
        raise last


@broken("C22", hookups.StoringContract)
class DoesNotWaitForTheAnswer(StoringLineBackend):
    def send(self, ref: ImageRef, path: str, data: ImageData) -> None:
        with self.connect(ref) as sock, contextlib.suppress(OSError):
            sock.sendall(f"PUT {path}\n".encode())
            for chunk in data:
                sock.sendall(b"%d\n" % len(chunk) + chunk)


@broken("C23")
class UpdateForgetsTheRest(MemoryBackend):
    def update(self, context: Context, ref: ImageRef, changes: Mapping[str, Any],
               data: ImageData | None, purge_props: bool) -> Image:  # fmt: skip
        return super().update(context, ref, changes, data, True)


@broken("C24")
class DeletesNothing(MemoryBackend):
    def delete(self, context: Context, ref: ImageRef) -> None:
        self._find(context, ref)


@broken("C24")
class DeletesWhatIsNotThere(MemoryBackend):
    def delete(self, context: Context, ref: ImageRef) -> None:
        with contextlib.suppress(ImageNotFound):
            super().delete(context, ref)


@broken("C34")
class ProbesAnotherVersion(MemoryBackend):
    def probe(self, context: Context, ref: ImageRef) -> Image:
        return replace(super().probe(context, ref), version="another")


@broken("C34")
class BelievesTheCaller(MemoryBackend):
    def revalidate(self, context: Context, ref: ImageRef, version: str) -> Image:
        return Image(ref=ref.text, version=version)


@broken("C34")
class ProbesWithoutAsking(MemoryBackend):
    def probe(self, context: Context, ref: ImageRef) -> Image:
        return Image(ref=ref.text, size=9)


@broken("C39")
class LosesTheTags(MemoryBackend):
    def create(self, context: Context, image: Image, data: ImageData | None) -> Image:
        return super().create(context, replace(image, tags=None), data)


@broken("C39")
class LosesAChange(MemoryBackend):
    def update(self, context: Context, ref: ImageRef, changes: Mapping[str, Any],
               data: ImageData | None, purge_props: bool) -> Image:  # fmt: skip
        kept = {name: value for name, value in changes.items() if name != "min_ram"}
        return super().update(context, ref, kept, data, purge_props)


@broken("C39", hookups.StoringContract)
class DeclaresMoreThanItStores(StoringLineBackend):
    record_fields = ("name", "properties")


@broken("C42")
class ClonesOtherBytes(MemoryBackend):
    def clone(self, context: Context, image: Image, source: ImageSource) -> Image:
        return self.create(context, image, ImageData(b"other bytes", None))


@broken("C38")
class ChecksInWords(MemoryBackend):
    def check(self, context: Context) -> Iterator[Any]:
        yield "all is well"


@broken("C38")
class FindsFaultWithItself(MemoryBackend):
    def check(self, context: Context) -> Iterator[Finding]:
        yield Finding("there is no shelf", FAILURE)


@broken("C38", hookups.StoringContract)
class ChecksWithoutLooking(StoringLineBackend):
    def check(self, context: Context) -> Iterator[Finding]:
        assert self.last is not None
        with contextlib.suppress(OSError):
            self.connect(self.last).close()
        yield Finding("the server answers")
