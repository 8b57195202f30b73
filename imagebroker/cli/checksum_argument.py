"""`--checksum`: a digest in any usual spelling, or where a list of digests is."""

from __future__ import annotations

import os
import re
import sys
from typing import NamedTuple

from imagebroker.exceptions import InvalidImageRef, UsageError
from imagebroker.model.algorithms import BY_DIGITS, DIGITS
from imagebroker.redaction import redact

_STDIN = "-"
_FORMS = (
    "write sha256:HEX or the {n} hex digits alone, the URL of a checksum file such as "
    "https://host/SHA256SUMS, the path of a local one, or - for standard input"
)


class ChecksumArgument(NamedTuple):
    """The checksum for the broker, and for the summary where it was found."""

    checksum: str
    origin: str | None = None


def checksum_of(text: str, ref: str, called: str | None = None) -> ChecksumArgument:
    """The checksum that `text` gives for the image `ref`; `called`: its name, if it was named so.

    What is no form of ours is passed on as it is: the broker says what is wrong with it.

    :raises UsageError: the file cannot be read.
    :raises VerificationError: it has no usable digest for the image.
    """
    digits = re.fullmatch(r"\s*([0-9a-fA-F]+)\s*", text)
    if digits and len(digits[1]) in BY_DIGITS:
        return ChecksumArgument(f"{BY_DIGITS[len(digits[1])]}:{digits[1]}")
    if spelled := re.fullmatch(r"([A-Za-z0-9_-]{3,16})[:=]([0-9a-fA-F]{32,128})", text):
        return ChecksumArgument(f"{_algorithm(spelled[1])}:{spelled[2]}")
    if text == _STDIN:
        return _listed(_standard_input(), "standard input", None, ref, called)
    if "://" in text:
        return ChecksumArgument(text)
    if not os.path.isfile(text) and (digest := _digest_in(text)):
        raise UsageError(
            f"{redact(text, 200)!r} is more than a checksum", hint=f"write --checksum {digest}"
        )
    if os.path.isfile(text) or _looks_like_file(text):
        return _listed(_content(text), redact(text, 200), text, ref, called)
    if text and ":" not in text and re.search(r"[^0-9A-Fa-f\s]", text):
        raise InvalidImageRef(
            f"{redact(text, 200)!r} is neither a checksum nor a file", hint=_FORMS.format(n=64)
        )
    return ChecksumArgument(text)


def _algorithm(name: str) -> str:
    """`SHA-256` and `sha256sum` as `sha256`."""
    bare = name.lower().removesuffix("sum")
    return re.sub(r"^sha-?(?:2-)?(\d)", r"sha\1", bare).replace("-", "_")


def _digest_in(text: str) -> str | None:
    """The one digest in a copied line, such as sha256sum prints, or in base64 (`sha256-...`)."""
    from imagebroker.exceptions import VerificationError
    from imagebroker.verify.checksum_lines import entries
    from imagebroker.verify.checksum_text import plain_text

    try:
        found = entries(plain_text(os.fsencode(text)), b"", "--checksum")
    except VerificationError:
        return None
    if len(found) != 1 or found[0].algorithm not in DIGITS:
        return None
    return f"{found[0].algorithm}:{found[0].digest}"


def _looks_like_file(text: str) -> bool:
    return "/" in text or text.lower().endswith(("sums", ".txt", ".sha256", ".sha512", ".asc"))


def _standard_input() -> bytes:
    from imagebroker.verify.checksum_file import LARGEST

    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError(
            "--checksum - reads standard input, which is a terminal, or closed",
            hint="pipe the list into it: sha256sum FILE | imagebroker download REF --checksum -",
        )
    return _bounded(sys.stdin.buffer.read(LARGEST + 1), "standard input")


def _content(path: str) -> bytes:
    from imagebroker.verify.checksum_file import LARGEST

    try:
        with open(path, "rb") as file:
            return _bounded(file.read(LARGEST + 1), redact(path, 200))
    except OSError as error:
        raise UsageError(
            f"cannot read the checksum file {redact(path, 200)!r}: {error.strerror}",
            hint=_FORMS.format(n=64),
        ) from error


def _bounded(content: bytes, what: str) -> bytes:
    from imagebroker.verify.checksum_file import LARGEST

    if len(content) > LARGEST:
        raise UsageError(
            f"{what} is too large for a checksum file", hint="name the list, not the image"
        )
    return content


def _listed(
    content: bytes, origin: str, path: str | None, ref: str, called: str | None
) -> ChecksumArgument:
    from urllib.parse import quote

    from imagebroker.model.reference import parse
    from imagebroker.verify.checksum_file import find_checksum

    try:
        file = None if path is None else parse(f"file://{quote(os.path.abspath(path))}")
    except InvalidImageRef:
        file = None  # its name says nothing about the algorithm then
    found = find_checksum(
        content, parse(ref), origin, allow_weak=True, file=file,  # the broker decides

        also_called=[os.fsencode(called)] if called else (),
    )  # fmt: skip
    return ChecksumArgument(f"{found.algorithm}:{found.digest}", found.origin)
