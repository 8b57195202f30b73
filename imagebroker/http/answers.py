"""The meaning of the head of an answer: errors, ranges, validators, dates."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from types import MappingProxyType
from urllib.parse import unquote_to_bytes

from imagebroker.exceptions import (
    BackendError,
    Gone,
    ImageBrokerError,
    ImageNotFound,
    NotAuthorized,
    TransferError,
)
from imagebroker.http.codings import foreign_coding
from imagebroker.http.digests import digests
from imagebroker.http.head import Head, Malformed
from imagebroker.http.pools import Answer
from imagebroker.http.urls import Url
from imagebroker.model import peer
from imagebroker.model.image import Image
from imagebroker.model.reference import ImageRef
from imagebroker.redaction import printable

# Patterns are text: `re` compiles each when it is first used, and most answers need few.
# An MD5 without quotes is how Swift writes an ETag, and what it takes in If-Match.
_STRONG_ETAG = r'"[\x21\x23-\x7e\x80-\xff]+"|[0-9a-f]{32}'
#: With the odd blanks and signs that some servers write, and others read.
_RANGE = r"(?i:bytes[ \t:=]+)?([0-9]{1,18})[ \t]*-[ \t]*([0-9]{1,18})[ \t]*/[ \t]*([0-9]{1,18})"
#: What has the image as its content; 203 is a 200 that a proxy may have written anew.
_WHOLE = (200, 203)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TIME = r"([0-9]{2}:[0-9]{2}:[0-9]{2})"
_MONTH = f"({'|'.join(_MONTHS)})"
#: The form that servers may send, and the two that they once did (RFC 9110, 5.6.7).
_DATE = rf"[A-Z][a-z]{{2,8}}, ([0-9]{{1,2}})[ -]{_MONTH}[ -]([0-9]{{4}}|[0-9]{{2}}) {_TIME} GMT"
_ASCTIME = rf"[A-Z][a-z]{{2}} {_MONTH} ([ 0-9][0-9]) {_TIME} ([0-9]{{4}})"


def described(ref: ImageRef, url: Url, head: Head, *, whole: bool) -> Image:
    """The record: what the head of an answer from `url` says about the image.

    `whole`: its content is the image.
    """
    found = content_range(head) if head.status == 206 else None
    size = found[2] if found is not None else head.content_length
    shown = {
        "content_type": head.get("content-type"),
        "content_encoding": ", ".join(head.all("content-encoding")),
        "etag": head.get("etag"),
        "cache_control": head.get("cache-control"),
    }
    return Image(
        ref=ref.text,
        name=_file_name(url),
        size=None if head.status == 206 and found is None else size,
        version=strong_etag(head),
        checksums=MappingProxyType(digests(head, whole=whole)),
        updated_at=parse_date(head.get("last-modified")),
        properties=MappingProxyType({k: printable(v, 256) for k, v in shown.items() if v}),
    )


def _file_name(url: Url) -> str | None:
    """The name of the image after all redirects."""
    name = unquote_to_bytes(url.path).rpartition(b"/")[2].decode("utf-8", "backslashreplace")
    return printable(name, 256) or None


def strong_etag(head: Head) -> str | None:
    """The ETag, with its quotes, if it promises that equal means equal bytes."""
    etag = head.get("etag")
    return etag if etag is not None and re.fullmatch(_STRONG_ETAG, etag) else None


def takes_ranges(head: Head) -> bool:
    """Whether the server says so. Where it says nothing it is to be asked (RFC 9110, 14.3)."""
    return "bytes" in head.tokens("accept-ranges")


def refuses_ranges(head: Head) -> bool:
    return "none" in head.tokens("accept-ranges") and not takes_ranges(head)


def has_whole(head: Head) -> bool:
    """Whether the content is the image, from its first byte to its last."""
    return head.status in _WHOLE


def content_range(head: Head) -> tuple[int, int, int] | None:
    """`(start, stop, total)`, stop exclusive; None if it is anything but one complete range."""
    values = head.all("content-range")
    match = re.fullmatch(_RANGE, values[0]) if len(values) == 1 else None
    if match is None or head_type(head) == "multipart/byteranges":
        return None
    start, last, total = map(int, match.groups())
    return (start, last + 1, total) if start <= last < total else None


def starts_at(head: Head) -> int | None:
    """Where the content of a 206 begins that goes to the end; None if it is anything else."""
    found = content_range(head) if head.status == 206 else None
    if (
        found is None
        or found[1] != found[2]
        or head.content_length not in (None, found[1] - found[0])
    ):
        return None
    return found[0]


def head_type(head: Head) -> str:
    """The media type without parameters, in lower case."""
    return (head.get("content-type") or "").partition(";")[0].strip().lower()


def parse_date(text: str | None) -> datetime | None:
    """A date in a form of RFC 9110; None if it is anything else."""
    if match := re.fullmatch(_DATE, text or ""):
        day, month, year, time = match.groups()
    elif match := re.fullmatch(_ASCTIME, text or ""):
        month, day, time, year = match.groups()
    else:
        return None
    now = datetime.now(UTC).year
    full = int(year) if len(year) == 4 else now // 100 * 100 + int(year)
    if len(year) == 2 and full > now + 50:
        full -= 100
    try:
        hour, minute, second = map(int, time.split(":"))
        return datetime(full, _MONTHS.index(month) + 1, int(day), hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None


def retry_after(head: Head) -> float | None:
    """Seconds that the server asks to wait; None if it says nothing that makes sense."""
    return peer.seconds_until(head.get("retry-after"))


def check_status(head: Head, url: object) -> None:
    """Pass what has the whole image.

    :raises ImageNotFound, Gone, NotAuthorized, BackendError, TransferError: as RFC 9110 has it.
    """
    if not has_whole(head):
        raise _error(head, f"{url}: {head.status} {printable(head.reason, 80)}".rstrip())


def coding(ref: ImageRef, answer: Answer) -> str:
    """The coding that the server names, if it makes the bytes something other than the image."""
    names = (ref.path or "", answer.place.url.path)
    return foreign_coding(answer.head.all("content-encoding"), names)


def check_coding(ref: ImageRef, answer: Answer) -> None:
    """:raises Malformed: it does not say whether these bytes are the image."""
    if found := coding(ref, answer):
        raise Malformed(f"{answer.place.url}: sent encoded as {printable(found, 60)!r}")


def _credentials(head: Head) -> str:
    """The options for what the server asks for."""
    asked = {value.partition(" ")[0].lower() for value in head.all("www-authenticate")}
    return "token" if "bearer" in asked and "basic" not in asked else "username, password"


def _error(head: Head, message: str) -> ImageBrokerError:
    status = head.status
    if status == 404:
        return ImageNotFound(message, hint="check the URL")
    if status == 410:
        return Gone(message, hint="the image was removed for good; look for a newer one")
    if status in (204, 205):
        return ImageNotFound(f"{message}: there is no data", hint="check the URL")
    if status == 401:
        return NotAuthorized(
            f"{message}: the server requires credentials",
            hint=f"set {_credentials(head)} and endpoint in the backend's section",
        )
    if status == 407:
        return NotAuthorized(
            f"{message}: a proxy in front of the server requires credentials",
            hint="ask the owner of the server for access",
        )
    if status == 403:
        hint = "ask the owner of the server for access"
        return NotAuthorized(message, hint=hint, status=status)
    if status == 511:
        return NotAuthorized(
            f"{message}: the network requires a login",
            hint="log in to this network first: open any http page in a browser",
            status=status,
        )
    if status == 429:
        return BackendError(
            message,
            hint="the server limits requests; try again later",
            retry_after=retry_after(head),
        )
    if status >= 500:
        return BackendError(
            message, hint="the server is in trouble; try again later", retry_after=retry_after(head)
        )
    if status == 400 and message.startswith("http://"):
        return BackendError(
            message, hint="write https:// instead of http://, if that port is for TLS",
            retryable=False,
        )  # fmt: skip
    if status >= 400:
        return BackendError(message, hint="the server refuses the request", retryable=False)
    return TransferError(
        f"{message}: an unexpected answer",
        hint="check the URL and the server",
        retryable=False,
    )
