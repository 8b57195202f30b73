"""An answer of our pools as urllib3's own response, for libraries that expect one."""

from __future__ import annotations

import io
from typing import Any

from urllib3 import HTTPResponse

from imagebroker.http.head import joined
from imagebroker.http.pools import Answer


def as_urllib3(answer: Answer, limit: int | None) -> HTTPResponse:
    """`answer`, its body loaded up to `limit` bytes, or as it arrives (None); never decoded.

    Cookies are left out: nothing here keeps any.
    """
    body: Any = answer.response if limit is None else io.BytesIO(answer.read(limit))
    return HTTPResponse(
        body, headers=fields_of(answer), status=answer.head.status, reason=answer.head.reason,
        preload_content=False, decode_content=False,
        enforce_content_length=False,  # done below; an answer to HEAD has none of it
    )  # fmt: skip


def fields_of(answer: Answer) -> dict[str, str]:
    """The headers of an answer, each name once, without cookies."""
    return joined(
        (name, value)
        for name, value in answer.head.fields
        if name not in ("set-cookie", "set-cookie2")
    )
