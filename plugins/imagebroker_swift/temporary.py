"""Temporary URLs: whoever has one can read the object until it expires."""

from __future__ import annotations

import hashlib
import hmac
import time
from urllib.parse import unquote_to_bytes

from imagebroker.plugin import http


def temporary_url(url: str, key: str, digest: str, seconds: int) -> str:
    """A URL with which the object at `url` can be read without a login."""
    expires = int(time.time()) + seconds
    # Swift signs the path as it is without its percent-escapes.
    signed = f"GET\n{expires}\n".encode() + unquote_to_bytes(http.Url.parse(url).path)
    signature = hmac.new(key.encode(), signed, getattr(hashlib, digest)).hexdigest()
    return f"{url}?temp_url_sig={signature}&temp_url_expires={expires}"
