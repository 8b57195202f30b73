"""Requests for bytes are signed when they are sent: keys and signatures expire, downloads last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from imagebroker.plugin import http
from imagebroker_s3.signer import AWSRequest, S3SigV4Auth

_SENT = ("Authorization", "X-Amz-Date", "X-Amz-Content-SHA256", "X-Amz-Security-Token")


class SignedReads(http.Credentials):
    """The headers of a GET for one URL, with the keys of that moment."""

    def __init__(self, keys: Any, url: str, region: str, fields: Mapping[str, str]) -> None:
        """`keys`: botocore's; `fields`: further headers that are signed."""
        self._keys, self._url, self._region, self._fields = keys, url, region, fields

    def headers(self) -> Mapping[str, str]:
        request = AWSRequest("GET", self._url, headers=dict(self._fields))
        keys = self._keys.get_frozen_credentials()
        S3SigV4Auth(keys, "s3", self._region).add_auth(request)
        names = [*_SENT, *self._fields]
        return {name: str(request.headers[name]) for name in names if name in request.headers}

    def renew(self, refused: Mapping[str, str]) -> bool:
        return False


def unsigned(url: str) -> tuple[str, str]:
    """A signed URL without its signature, and the region that it was signed for."""
    base, _, query = url.partition("?")
    fields = [each for each in query.split("&") if each]
    kept = [each for each in fields if not each.startswith("X-Amz-")]
    scopes = [unquote(each) for each in fields if each.startswith("X-Amz-Credential=")]
    # The access key comes first, and may have slashes in it.
    region = scopes[0].split("/")[-3] if scopes else ""
    return "?".join(filter(None, (base, "&".join(kept)))), region
