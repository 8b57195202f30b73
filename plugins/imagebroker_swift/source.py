"""The bytes of an object: ranges of one version, with a token that is renewed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from imagebroker.plugin import Image, ImageRef, TransferError, http, printable
from imagebroker_swift.client import Account
from imagebroker_swift.record import dynamic_prefix, intended_size


class SwiftSource(http.HttpSource):
    """An object, whose record comes with its bytes."""

    def __init__(
        self,
        account: Account,
        ref: ImageRef,
        url: str,
        image_of: Callable[[http.Head], Image],
        start: int,
    ) -> None:
        super().__init__(account.server.http, ref, url, headers=account.login, start=start)
        try:
            self.image = settled(image_of(self.head), self.image)
            self._check_whole()
        except BaseException:
            self.close()
            raise

    def _check_whole(self) -> None:
        """:raises TransferError: segments of the object are missing, or there are others."""
        intended, size = intended_size(self.head), self.image.size
        if intended is not None and size is not None and size != intended:
            raise TransferError(
                f"{self.image.ref}: its segments have {size} bytes, but {intended} were stored",
                hint="try again; if it stays so, upload it again: segments are missing in"
                f" {printable(dynamic_prefix(self.head) or '', 200)}",
            )


def settled(record: Image, served: Image) -> Image:
    """The record, with what the server says of the bytes themselves."""
    return replace(record, size=served.size, version=served.version)
