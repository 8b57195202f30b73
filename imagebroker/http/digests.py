"""The digests that a server sends with its answer (RFC 9530)."""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error

from imagebroker.http.head import Head

#: Asks servers for it; most ignore that.
WANTED = ("Want-Repr-Digest", "sha-512=2, sha-256=1")

#: Longest field that is parsed, in characters over all its lines.
_LONGEST = 4096
#: What proves content, with its bytes; hashlib's name.
_STRONG = {"sha-256": (32, "sha256"), "sha-512": (64, "sha512")}
_KEY = r"[a-z*][a-z0-9_.*-]{0,63}"
_VALUE = (
    r"""(?:\?[01]|-?[0-9]{1,15}|[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]{0,63}|"[ !#-\[\]-~]{0,64}")"""
)
#: A member of a dictionary of structured fields (RFC 9651) whose value is a byte sequence.
_MEMBER = rf"({_KEY})=:([A-Za-z0-9+/]{{0,512}}={{0,2}}):(?:;[ ]{{0,8}}{_KEY}(?:={_VALUE})?){{0,8}}"
_COMMA = r"[ \t]{0,8},[ \t]{0,8}"


def digests(head: Head, *, whole: bool) -> dict[str, str]:
    """Strong digests of the image, by hashlib's name; none if a field is not as RFC 9530 has it.

    `whole`: the answer brings the image as its content, so that `Content-Digest` is about it too.
    """
    found: dict[str, str] = {}
    for name in ("repr-digest", *(["content-digest"] if whole else [])):
        for algorithm, digest in _parsed(", ".join(head.all(name))).items():
            if found.setdefault(algorithm, digest) != digest:
                return {}  # the two fields contradict each other
    return found


def _parsed(text: str) -> dict[str, str]:
    """Algorithm to hex digest; nothing of a field that is malformed, or says two things."""
    found: dict[str, str] = {}
    position = 0
    if not text or len(text) > _LONGEST:
        return {}
    members, commas = re.compile(_MEMBER), re.compile(_COMMA)  # few answers have a digest
    while True:
        member = members.match(text, position)
        if member is None:
            return {}
        key, encoded = member[1], member[2]
        if key in _STRONG:
            size, algorithm = _STRONG[key]
            digest = _decoded(encoded)
            if len(digest) != size or found.setdefault(algorithm, digest.hex()) != digest.hex():
                return {}
        if member.end() == len(text):
            return found
        comma = commas.match(text, member.end())
        if comma is None:
            return {}
        position = comma.end()


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (Error, ValueError):
        return b""
