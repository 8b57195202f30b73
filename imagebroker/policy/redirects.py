"""The target of a `Location` header: resolved as in RFC 3986, and repaired as common clients do.

Whether a redirect may be followed is decided in `imagebroker.policy.addresses`.
"""

from __future__ import annotations

import re

_REFERENCE = (
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):)?(?://(?P<authority>[^/?#]*))?"
    r"(?P<path>[^?#]*)(?P<query>\?[^#]*)?(?:#.*)?"
)
_CONTROL = r"[\x00-\x1f\x7f]"
#: What must be escaped in a path or query, including a percent sign without two digits.
_UNSAFE = r"[^A-Za-z0-9._~!$&'()*+,;=:@/?%-]|%(?![0-9A-Fa-f]{2})"


def resolved(base: str, location: str) -> str:
    """The URI for `location` in a response of `base`, without a fragment (RFC 3986, 5.2).

    Characters in the path and query that should have been escaped are escaped here: blanks, quotes,
    brackets, bytes beyond ASCII. RFC 9110 (10.2.2) foresees that, and browsers, curl and wget do
    it. The host is not changed.

    :param location: as received, each byte a character (latin-1).
    :raises ValueError: it has characters that clients interpret in different ways.
    """
    location = location.strip(" ")
    if found := re.search(_CONTROL, location):
        raise ValueError(f"it has the control character {found[0]!r}")
    ours, theirs = re.fullmatch(_REFERENCE, base), re.fullmatch(_REFERENCE, location)
    if ours is None or theirs is None:
        raise ValueError("it is not a URI")
    scheme, authority = theirs["scheme"], theirs["authority"]
    if "\\" in (authority or "") + theirs["path"]:
        raise ValueError("it has a backslash, which some clients treat as a slash")
    path, query = theirs["path"], theirs["query"]
    if scheme is None and authority is None:
        if ":" in path.partition("/")[0]:
            raise ValueError("it is relative, and begins with something like a scheme")
        if not path:
            path, query = ours["path"], query if query is not None else ours["query"]
        elif not path.startswith("/"):
            path = (ours["path"].rpartition("/")[0] + "/" if ours["path"] else "/") + path
    if scheme is None:
        scheme = ours["scheme"]
        authority = ours["authority"] if authority is None else authority
    if authority is None:
        raise ValueError("it has a scheme but no host")
    path = _without_dots(path)
    return f"{scheme.lower()}://{_plain_port(authority)}{_escaped(path)}{_escaped(query or '')}"


def _without_dots(path: str) -> str:
    """Without `.` and `..` segments (RFC 3986, 5.2.4)."""
    if not path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _plain_port(authority: str) -> str:
    """Without an empty port or leading zeros, which are valid but have no meaning."""
    host, colon, port = authority.rpartition(":")
    if not colon or not re.fullmatch("[0-9]*", port):
        return authority
    number = port.lstrip("0") or port[:1]
    return f"{host}:{number}" if number else host


def _escaped(text: str) -> str:
    def escape(match: re.Match[str]) -> str:
        character = match[0]
        encoding = "latin-1" if character <= "\xff" else "utf-8"
        return "".join(f"%{byte:02X}" for byte in character.encode(encoding))

    return re.sub(_UNSAFE, escape, text)
