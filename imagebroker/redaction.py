"""What may be shown of text that came from outside: one line, bounded, without secrets."""

from __future__ import annotations

import re

#: Longest text that is shown of anything (characters).
LIMIT = 1024

_USERINFO = re.compile(r"//[^/\s@:]{0,256}:[^/\s@]{0,1024}@")
#: The query of a URL, or what looks like a query after any path.
_QUERY = re.compile(
    r"((?:[a-z][a-z0-9+.-]{0,31}://[^\s?'\"#<>]{1,2048}))\?[^\s'\"#<>]+"
    r"|\?[^\s'\"#)<>]*=[^\s'\"#)<>]*"
)
_SECRET = re.compile(
    r"(?i)(?<![\w/.-])((?:proxy-)?authorization|x-(?:auth|service|subject|storage)-token|(?:set-)?cookie"
    r"|password|passwd|passphrase|secret|token|api[_-]?key)"
    r"(['\"]?\s*[:=]\s*['\"]?)((?:bearer|basic|digest|negotiate)\s+)?[^\s'\",;&]+"
)
_TOKEN = re.compile(r"\bgAAAA[A-Za-z0-9_=-]{8,}")


def printable(text: str, limit: int = LIMIT) -> str:
    """`text` on one line: control characters escaped, cut to `limit` characters."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def redact(text: object, limit: int = LIMIT) -> str:
    """`text` as it may be logged: `printable`, and without passwords, tokens and URL queries.

    Queries go as a whole, because presigned URLs keep their signature there.
    """
    shown = printable(str(text)[: 4 * limit], 4 * limit)
    if "//" in shown:
        shown = _USERINFO.sub("//***@", shown)
    if "?" in shown:
        shown = _QUERY.sub(lambda match: (match[1] or "") + "?***", shown)
    shown = _SECRET.sub(r"\1\2***", shown)
    return printable(_TOKEN.sub("***", shown), limit)
