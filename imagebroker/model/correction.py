"""Hints for identifiers that are refused: the likely correct spelling. Nothing is ever repaired."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from urllib.parse import quote

from imagebroker.model.reference import DEFAULT_PORTS
from imagebroker.redaction import redact

FORMS = (
    "write a UUID, NAME:UUID, or a URL such as https://host/path, file:///path or s3://bucket/key"
)
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,31}):(?P<rest>.*)", re.DOTALL)
#: What stands around an identifier that was copied from a mail, a page or a script.
_AROUND = " \t\r\n\f\v'\"<>`"
_HEX_ID = re.compile(
    r"(?:urn:uuid:|(?P<backend>[a-z][a-z0-9+.-]{0,31}(?::[A-Za-z0-9_.-]{1,64})?:(?://)?))?"
    r"\{?(?P<id>[0-9a-fA-F]{8}(?:-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12})\}?"
)
_REMOTE = re.compile(r"(?:(?P<user>[A-Za-z0-9_.-]+)@)?(?P<host>[A-Za-z0-9.-]+):(?P<path>[/~].*)")
_WITHOUT_SCHEME = re.compile(r"(?:[A-Za-z0-9-]+\.)+[A-Za-z0-9-]+(?::\d{1,5})?/.*")
#: RFC 3986 characters that can stand in a path or a query as they are.
_ALLOWED = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2}")
_WITH_SLASHES = ("http", "https", "scp", "s3", "swift", "oci", "rbd")
#: Characters that a hint lists at most.
_SHOWN = 4


def correction(text: str) -> str:
    """The hint for the most likely mistake in `text`, which has no pin."""
    for rule in _RULES:
        if hint := rule(text):
            return hint
    return FORMS


def _copied(text: str) -> str | None:
    bare = text.strip(_AROUND)
    return f"remove what stands around it: {redact(bare, 200)}" if bare not in (text, "") else None


def _local(text: str) -> str | None:
    scheme = _SCHEME.fullmatch(text)
    is_file = scheme is not None and scheme["scheme"].lower() == "file"
    path = scheme["rest"] if scheme is not None and is_file else text
    if re.match(r"/(?!/)", path) and not _unescaped(path):
        return f"write file://{redact(path, 200)}"
    is_path = text.startswith(("/", "./", "../", "~")) or re.match(r"[A-Za-z]:[\\/]", text)
    relative = is_file and "://" not in text
    return "write a local file as file:///absolute/path" if is_path or relative else None


def _upper_case(text: str) -> str | None:
    found = _SCHEME.fullmatch(text)
    if found is None or not found["rest"].startswith("//") or found["scheme"].islower():
        return None
    return f"write the scheme in lower case: {found['scheme'].lower()}://"


def _id(text: str) -> str | None:
    found = _HEX_ID.fullmatch(text)
    if found is None:
        return None
    digits = found["id"].replace("-", "").lower()
    ends = (0, 8, 12, 16, 20, 32)
    parts = (digits[a:b] for a, b in pairwise(ends))
    return f"write the id as {(found['backend'] or '').removesuffix('//')}{'-'.join(parts)}"


def _slashes(text: str) -> str | None:
    found = _SCHEME.fullmatch(text)
    if found is None or found["scheme"] not in _WITH_SLASHES:
        return None
    rest = found["rest"]
    if rest.startswith("//") or not rest.lstrip("/"):
        return None
    return (
        f"write two slashes after the scheme: {found['scheme']}://{redact(rest.lstrip('/'), 200)}"
    )


def _remote(text: str) -> str | None:
    found = _REMOTE.fullmatch(text)
    if found is None or "://" in text:
        return None
    user = f"{found['user']}@" if found["user"] else ""
    path = found["path"] if found["path"].startswith("/") else "/absolute/path"
    return f"write a file on an SSH server as scp://{user}{found['host']}{redact(path, 200)}"


def _no_scheme(text: str) -> str | None:
    return f"write the scheme, as in https://{redact(text, 200)}" if (
        _WITHOUT_SCHEME.fullmatch(text)
    ) else None  # fmt: skip


def _characters(text: str) -> str | None:
    scheme, _, rest = text.partition("://")
    if not rest or not re.fullmatch(r"[a-z][a-z0-9+.:_A-Z-]*", scheme):
        return None
    found = _unescaped(rest.partition("/")[2])
    if not found:
        return None
    if any(not each.isprintable() for each in found):
        return "remove the control characters, or write them as %XX"
    return f"write {_escapes(''.join(found))}"


def _escapes(text: str) -> str:
    """How the characters that must be percent-encoded are written, each once; empty for none that
    can be shown.
    """
    shown = [each for each in _unescaped(text) if each.isprintable()]
    return ", ".join(
        f"{'a blank' if each == ' ' else each} as {quote(each, safe='')}" for each in shown[:_SHOWN]
    )


def _unescaped(text: str) -> list[str]:
    """The characters that must be percent-encoded, each once."""
    return list(dict.fromkeys(_ALLOWED.sub("", text)))


_RULES: tuple[Callable[[str], str | None], ...] = (
    _copied, _id, _local, _upper_case, _slashes, _remote, _characters, _no_scheme,
)  # fmt: skip


def host_correction(authority: str, scheme: str) -> str:
    """The hint for `authority`, which is not `[user@]host[:port]`."""
    user, at, host = authority.rpartition("@")
    form = "[user@]host[:port]" if scheme == "scp" else "host[:port]"
    if at and ":" in user:
        rest = "" if scheme == "scp" else (
            " or user: username and password stand in the backend's section, with endpoint"
        )  # fmt: skip
        return f"write it as {form}, without a password{rest}"
    if scheme not in DEFAULT_PORTS and (found := _escapes(authority)):
        return f"write {found}"
    if not host.isascii():
        return f"write the host in ASCII{_in_ascii(host)}"
    if "%" in host and host.startswith("["):
        return "write the address without its zone, and without %"
    if re.fullmatch(r"[A-Za-z0-9._-]+:", host):
        return "remove the colon after the host, or add the port"
    if re.search(r":0+\Z", host):
        return "write the port of the server, or none"
    return f"write it as {form}"


#: Characters that are another name in IDNA 2003 than in IDNA 2008.
_AMBIGUOUS = frozenset("ßẞς\u200c\u200d")


def _in_ascii(host: str) -> str:
    name, colon, port = host.partition(":")
    if not _AMBIGUOUS.isdisjoint(name):
        return ", as its DNS name (xn--...)"
    try:
        return f": {name.encode('idna').decode()}{colon}{port}"
    except UnicodeError:
        return ", as its DNS name (xn--...)"
