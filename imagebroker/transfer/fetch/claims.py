"""Images that cannot be verified are refused before their first byte."""

from __future__ import annotations

from imagebroker.backends.opened_source import OpenedSource
from imagebroker.exceptions import PolicyViolation, TransferError
from imagebroker.model.image import Image
from imagebroker.transfer.limits import Rules


def check_claims(image: Image, rules: Rules, *, demanded: bool, local: bool) -> None:
    """Refuse an image without a size, or without a byte, if nothing confirms that.

    :param demanded: the caller or the record has a checksum.
    :param local: the bytes are a file of this host.
    :raises PolicyViolation: the size is unknown, and no checksum covers the bytes.
    :raises TransferError: the image is empty, and only the peer says so.
    """
    if image.size is None and not (demanded or rules.allow_unknown_size):
        raise PolicyViolation(
            f"{image.ref}: the server does not say how many bytes there are",
            hint="pass checksum=, or allow_unknown_size to accept an image that may be cut off",
        )
    confirmed = demanded or rules.allow_empty or image.id is not None or local
    if image.size == 0 and not confirmed:
        raise TransferError(
            f"{image.ref} is empty",
            hint="pass allow_empty if it is meant to be empty",
            retryable=False,
        )


def check_coding(source: OpenedSource) -> None:
    """:raises TransferError: the bytes could be the image or an encoding of it."""
    if not source.coding:
        return
    from imagebroker.transfer.codecs import KINDS  # few servers do this

    unpacked = source.coding.removeprefix("x-")
    raise TransferError(
        f"{source.image.ref}: the server sends it encoded as {source.coding!r}, though it "
        "was asked not to",
        hint=f"pass --decompress={unpacked} to store the decompressed image"
        if unpacked in KINDS
        else "pass --checksum with the digest of the file as the server stores it",
        retryable=False,
        coding=source.coding,
    )
