"""A small file that a transfer needs, read whole through the same checks and limits as an image."""

from __future__ import annotations

from contextlib import closing

from imagebroker.exceptions import ImageNotFound, TooLarge, TransferError, VerificationError
from imagebroker.transfer.download import opened
from imagebroker.transfer.transfer import Transfer


class NotThere(VerificationError):
    """Nobody has such a file."""


def read_small(transfer: Transfer, title: str) -> bytes:
    """All of its bytes, within the limits of the transfer.

    :raises VerificationError: it is not there, or larger than the limit: no such file then.
    """
    try:
        with closing(opened(transfer)) as stream:
            return b"".join(bytes(chunk) for chunk in stream.chunks())
    except ImageNotFound as error:
        why = str(error).removeprefix(f"{title}: ")
        raise NotThere(
            f"{title} does not exist: {why}", hint="check the URL of --checksum"
        ) from error
    except TooLarge as error:
        raise VerificationError(
            f"{title} is too large for a checksum file: over {transfer.watch.rules.max_size} bytes",
            hint="check the URL of --checksum",
        ) from error
    except TransferError as error:
        if getattr(error, "coding", None) is None:
            raise
        raise VerificationError(
            f"{title} cannot be read: {error}",
            hint="pass the digest itself, or the URL of a file that is sent as it is",
        ) from error
