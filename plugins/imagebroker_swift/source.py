"""The bytes of an object: ranges of one version, with a token that is renewed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from imagebroker.plugin import Image, ImageRef, http
from imagebroker_swift.client import Account


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
        self.image = settled(image_of(self.head), self.image)


def settled(record: Image, served: Image) -> Image:
    """The record, with what the server says of the bytes themselves."""
    return replace(record, size=served.size, version=served.version)
