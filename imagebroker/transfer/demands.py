"""The demands of the caller and the deployer on the bytes, before the image is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from imagebroker.model.image import Image
from imagebroker.verify.checks import Required, declared_format
from imagebroker.verify.checksum import Checksum, ExtraDigests, required_checksums
from imagebroker.verify.disk_format import FormatPolicy
from imagebroker.verify.signature import Signature


class Demands(NamedTuple):
    """Requirements for the bytes, whatever their source."""

    #: Of the caller and of the ref.
    checksums: tuple[Checksum, ...] = ()
    #: The deployment insists on a strong checksum.
    require: bool = False
    allow_weak: bool = False
    #: What the checksums are if the server of the bytes computes them; None: those of a record.
    served: str | None = None
    #: The record, if it was read before any candidate was opened.
    record: Image | None = None
    #: What the content may be; None: it is not checked.
    formats: FormatPolicy | None = None
    #: The server may send a web page or another text in place of the bytes.
    may_be_page: bool = False
    #: The caller has said which bytes they are, by a digest of their own.
    wanted: bool = False
    #: What arrives is unpacked, so that it does not matter how it is encoded.
    unpacks: bool = False
    #: Finds the signature that must hold for an image; None: none is required.
    signature: Callable[[Image, Callable[[], Any]], Signature] | None = None
    #: What is computed besides, and of which images; None: nothing.
    extra_digests: Callable[[Image], ExtraDigests] | None = None

    def of_record(self, waiting: Callable[[], Any]) -> Required | None:
        """All that must hold, before any candidate is opened; None if no record was read."""
        return None if self.record is None else self.for_image(self.record, waiting)

    def for_image(self, image: Image, waiting: Callable[[], Any]) -> Required:
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
            extra_digests=None if self.extra_digests is None else self.extra_digests(image),
            may_be_page=self.may_be_page,
            wanted=self.wanted or recorded or signature is not None,
        )
