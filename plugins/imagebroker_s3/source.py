"""The bytes of an object: ranges, each in a signed request."""

from __future__ import annotations

from dataclasses import replace

from imagebroker.plugin import Image, ImageRef, http


class S3Source(http.HttpSource):
    """An object of one version, which every request names."""

    def __init__(
        self,
        client: http.Client,
        ref: ImageRef,
        url: str,
        credentials: http.Credentials | None,
        record: Image,
        etag: str | None,
        start: int = 0,
    ) -> None:
        """`record`: from its metadata."""
        super().__init__(client, ref, url, headers=credentials, version=etag, start=start)
        self.image = settled(record, self.image)


def settled(record: Image, served: Image) -> Image:
    """The record, with what the server says of the bytes themselves."""
    return replace(record, size=served.size, version=record.version or served.version)
