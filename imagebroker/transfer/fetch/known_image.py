"""The image that is being fetched, as its sources describe it: may their bytes be joined?"""

from __future__ import annotations

from collections.abc import Callable

from imagebroker.exceptions import ImageChanged, TooLarge
from imagebroker.model.image import Image
from imagebroker.transfer.fetch.versions import Circumstances, Joining, Versions


class KnownImage:
    """The image that is being fetched, as far as it is known, and the versions that were met.

    A version that differs may be that of another server behind the same name (`versions.py`).
    """

    def __init__(self, joining: Joining, size: int | None, max_size: int) -> None:
        """`size`: what the record says; every source must have it."""
        self.versions = Versions(joining)
        self._size, self._max_size = size, max_size
        #: The image as the candidate that is being read first described it.
        self._first: Image | None = None
        #: As shown to others: the one opened last.
        self.image: Image | None = None
        self._any_version = False

    def forget(self) -> None:
        """Another candidate may describe the image in its own way."""
        self._first = None

    def is_now(self, image: Image) -> None:
        """Continue with another candidate, which has been opened before."""
        self._first = image

    def accept_any_version(self) -> None:
        """The image begins again at byte 0, whatever version the next source has."""
        self._any_version = True

    @property
    def own_version(self) -> str | None:
        return self._first.version if self._first is not None else None

    def admit(self, image: Image, now: Callable[[], Circumstances]) -> bool:
        """Look at the image of a source that was opened; True if nothing that came before fits.
        `now` is asked where its version is another one.

        :raises ImageChanged: its bytes cannot be joined with those that came before.
        :raises TooLarge: it has more bytes than are allowed.
        """
        first, unlike = self._first, False
        if first is None:
            unlike = self._look_at_first(image)
        elif not _agree(image, first):
            raise changed(image)
        elif self._any_version:
            self._first = self.image = image
        elif image.version != first.version:
            if not self.versions.may_join(now()):
                raise changed(image)
            self._first = image
        self._any_version = False
        return unlike

    def _look_at_first(self, image: Image) -> bool:
        self.check_size_of(image)
        known = self.image
        self._first = self.image = image
        self.check_size(image.size or 0)
        return known is None or known.size != image.size

    def check_size_of(self, image: Image) -> None:
        """:raises ImageChanged: it has another size than the record."""
        if self._size is not None and image.size not in (None, self._size):
            raise ImageChanged(
                f"{image.ref} has {image.size} bytes, and the record says {self._size}",
                hint="correct the size in the record, or replace the data it points to",
            )

    def check_size(self, size: int) -> None:
        """:raises TooLarge: more bytes than are allowed."""
        if size > self._max_size and self.image is not None:
            raise TooLarge(
                f"{self.image.ref} has {size} bytes, and at most {self._max_size} are allowed",
                hint="to allow it, raise max_size",
            )


def _agree(image: Image, first: Image) -> bool:
    """Whether an image that is opened again may have the same bytes, whatever its version says."""
    return image.size == first.size and all(
        image.checksums.get(name, digest) == digest for name, digest in first.checksums.items()
    )


def changed(image: Image) -> ImageChanged:
    return ImageChanged(
        f"{image.ref} changed while it was read", hint="download it again to get the new image"
    )
