"""Where the bytes may be had, and what must hold for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from imagebroker.backends.boundary import OpenedSource
from imagebroker.exceptions import (
    Cancelled,
    DestinationError,
    FormatError,
    SignatureError,
    TransferError,
)
from imagebroker.model.image import Image
from imagebroker.verify.checks import Required, declared_format
from imagebroker.verify.checksum import Checksum, required_checksums
from imagebroker.verify.disk_format import FormatPolicy
from imagebroker.verify.signature import Signature

#: Errors after which no other place is tried: none could do better, or none may.
FINAL = (DestinationError, Cancelled, FormatError, SignatureError)
#: Called while something is waited for; may raise.
Waiting = Callable[[], Any]
#: Opens a place, within so many seconds; calls its second argument while it waits.
Opener = Callable[[float, Waiting], OpenedSource]


@dataclass(frozen=True)
class Place:
    """One place where the bytes may be had."""

    ref: str
    open: Opener
    #: What it hands out comes from another transfer, or from a cache: nothing that is wrong with it
    #: is a verdict on the image.
    secondhand: bool = False
    #: Its backend believes whatever server answers (`insecure`).
    insecure: bool = False
    #: As `open`, where the first byte that will be read is another than byte 0.
    open_at: Callable[[int, float, Waiting], OpenedSource] | None = None

    def opened(self, start: int, left: float, waiting: Waiting) -> OpenedSource:
        """Open it, to be read from `start` on, if that is so."""
        if start and self.open_at is not None:
            return self.open_at(start, left, waiting)
        return self.open(left, waiting)


class HandedOver(TransferError):
    """A place has handed out all that it can; the next goes on. Nothing is wrong with either."""

    retryable = False


def caveats(places: Sequence[Place], served: Mapping[str, int]) -> dict[str, bool]:
    """What belongs into the evidence though no check found it: nobody proved who a server was.

    The backend itself counts, also where the bytes came from elsewhere: it had the record.
    """
    doubtful = places[-1].insecure or any(p.insecure and p.ref in served for p in places)
    return {"insecure": True} if doubtful else {}


@dataclass(frozen=True)
class Demands:
    """What must hold for the bytes, whoever sends them."""

    #: Of the caller and of the ref.
    checksums: tuple[Checksum, ...] = ()
    #: The deployment insists on a strong checksum.
    require: bool = False
    allow_weak: bool = False
    #: What the record's checksums are where whoever sends the bytes sends them too; None: a record.
    served: str | None = None
    #: The record that was asked for, where it was looked at before any place was opened.
    record: Image | None = None
    #: What the content may be; None: nobody looks.
    formats: FormatPolicy | None = None
    #: Whoever sends the bytes may send a web page or another text in their place.
    may_be_page: bool = False
    #: The caller has said which bytes they are, by a digest of their own.
    wanted: bool = False
    #: What arrives is unpacked, so that it does not matter how it is encoded.
    unpacks: bool = False
    #: Finds the signature that must hold for an image; None: nobody asks for one.
    signature: Callable[[Image, Waiting], Signature | None] | None = None

    def of_record(self, waiting: Waiting) -> Required | None:
        """All that must hold, before any place is opened; None if no record was looked at."""
        return None if self.record is None else self.for_image(self.record, waiting)

    def for_image(self, image: Image, waiting: Waiting) -> Required:
        """All that must hold for the bytes of `image`.

        :raises ChecksumMissing, VerificationError: see `required_checksums`, `required_signature`.
        :raises FormatError: the format that is declared is not acceptable.
        """
        checksums = required_checksums(
            image,
            self.checksums,
            require=self.require,
            allow_weak=self.allow_weak,
            served=self.served,
        )
        required = Required(image.ref, checksums, None, self.formats, declared_format(image))
        required.check_declared()
        signature = self.signature(image, waiting) if self.signature is not None else None
        recorded = self.served is None and image.strong_checksum is not None
        return replace(
            required,
            signature=signature,
            may_be_page=self.may_be_page,
            wanted=self.wanted or recorded or signature is not None,
        )
