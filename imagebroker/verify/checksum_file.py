"""Checksum files: SHA256SUMS as coreutils writes it, lines in the form of BSD, a digest alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from imagebroker.exceptions import PolicyViolation, VerificationError
from imagebroker.reference import ImageRef
from imagebroker.verify.checksum import STRONG, WEAK, Checksum

#: Bytes of the largest checksum file that is read.
LARGEST = 1024 * 1024
#: Seconds in which it has to be there.
PATIENCE = 60.0

_URL = re.compile(r"([a-z][a-z0-9+.-]{0,31})://")
#: What a number of hex digits without further words means.
_BY_DIGITS = {32: "md5", 40: "sha1", 64: "sha256", 96: "sha384", 128: "sha512"}
#: Names in lines of BSD and OpenSSL, in capitals.
_BY_NAME = {
    "MD5": "md5", "SHA1": "sha1", "SHA256": "sha256", "SHA384": "sha384", "SHA512": "sha512",
    "SHA2-256": "sha256", "SHA2-384": "sha384", "SHA2-512": "sha512", "SHA3-256": "sha3_256",
    "SHA3-512": "sha3_512", "BLAKE2B": "blake2b",
}  # fmt: skip
_COREUTILS = re.compile(rb"(\\?)([0-9a-fA-F]{32,128})(?: [ *]|[ \t]+)(.+)")
_BSD = re.compile(rb"(\\?)([A-Za-z0-9-]{3,16}) ?\((.+)\) ?= ?([0-9a-zA-Z]*)")
_ALONE = re.compile(rb"\s*([0-9a-fA-F]{32,128})\s*")
_ESCAPE = re.compile(rb"\\(.?)", re.DOTALL)
_ESCAPED = {b"\\": b"\\", b"n": b"\n", b"r": b"\r"}


def is_url(checksum: object) -> bool:
    """Whether a caller's `checksum` is the URL of such a file, and no digest."""
    match = _URL.match(checksum) if isinstance(checksum, str) else None
    return match is not None and match[1] not in (*STRONG, *WEAK)


@dataclass(frozen=True)
class _Entry:
    algorithm: str
    digest: str
    #: Path without a leading `./`.
    name: bytes


def find_checksum(text: bytes, ref: ImageRef, origin: str, *, allow_weak: bool) -> Checksum:
    """The strongest digest that the file has for the image, found by the name of its file.

    `origin` is what messages and the evidence call the file.

    :raises VerificationError: it has no digest for the image, or several that differ.
    :raises PolicyViolation: it has md5 or sha1 alone, and the deployment does not allow that.
    """
    text = text.removeprefix(b"\xef\xbb\xbf")
    alone = _ALONE.fullmatch(text)
    if alone is not None and len(alone[1]) in _BY_DIGITS:
        entries = [_Entry(_BY_DIGITS[len(alone[1])], alone[1].decode().lower(), ref.file_name)]
    else:
        entries = _closest(list(_entries(text, origin)), ref)
    found: dict[str, set[str]] = {}
    for entry in entries:
        found.setdefault(entry.algorithm, set()).add(entry.digest)
    shown = ref.file_name.decode("utf-8", "backslashreplace")
    for algorithm in (*STRONG, *WEAK):
        digests = found.get(algorithm, set())
        if len(digests) > 1:
            raise VerificationError(
                f"{origin} has {len(digests)} different {algorithm} digests for {shown!r}",
                hint="pass the right one as checksum='sha256:...'",
            )
        if digests and algorithm in WEAK and not allow_weak:
            raise PolicyViolation(
                f"{origin} has only {algorithm} for {shown!r}, which proves nothing",
                hint="use a file of sha256 or sha512, or set allow_md5 in [imagebroker]",
            )
        if digests:
            return Checksum(algorithm, digests.pop(), origin)
    raise VerificationError(
        f"{origin} has no digest for {shown!r}",
        hint="check that it is the checksum file for this image, and that the file is listed in it "
        "under the name that the URL ends in",
    )


def _closest(entries: list[_Entry], ref: ImageRef) -> list[_Entry]:
    """Those whose path the ref's ends with, the longest of them; else those of the same name."""
    path = b"/" + (ref.path_bytes.lstrip(b"/") or ref.file_name)
    exact = [entry for entry in entries if path.endswith(b"/" + entry.name)]
    if exact:
        longest = max(len(entry.name) for entry in exact)
        return [entry for entry in exact if len(entry.name) == longest]
    return [entry for entry in entries if entry.name.rpartition(b"/")[2] == ref.file_name]


def _entries(text: bytes, origin: str) -> Iterator[_Entry]:
    """What the lines say; comments, signatures and digests of other kinds are passed over."""
    for line in text.split(b"\n"):
        line = line.removesuffix(b"\r")
        if (match := _COREUTILS.fullmatch(line)) is not None:
            escape, digest, name = match.groups()
            algorithm = _BY_DIGITS.get(len(digest))
        elif (match := _BSD.fullmatch(line)) is not None:
            escape, word, name, digest = match.groups()
            algorithm = _BY_NAME.get(word.decode().upper())
        else:
            continue
        if algorithm is None or (plain := _unescaped(name) if escape else name) is None:
            continue
        if not re.fullmatch(rb"[0-9a-fA-F]{%d}" % {**STRONG, **WEAK}[algorithm], digest):
            raise VerificationError(
                f"{origin}: a line for {algorithm} does not have its number of hex digits",
                hint="the file is damaged, or was cut off",
            )
        while plain.startswith(b"./"):
            plain = plain[2:].lstrip(b"/")
        yield _Entry(algorithm, digest.decode().lower(), plain)


def _unescaped(name: bytes) -> bytes | None:
    """A name behind a backslash line, as coreutils writes what has line ends or backslashes."""
    if any(match[1] not in _ESCAPED for match in _ESCAPE.finditer(name)):
        return None
    return _ESCAPE.sub(lambda match: _ESCAPED[match[1]], name)
