"""Rewrites what publishers and their tools write as lines of UTF-8 with digests in hex."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator

#: `sha256-BASE64` (npm, Nix), `sha-256=:BASE64:` (Repr-Digest), of exactly as many characters as
#: such a digest has.
_BASE64 = re.compile(
    rb"(?<![A-Za-z0-9])((?i:sha-?)(?:(256)|(?P<long>512)))[-:=]:?"
    rb"([A-Za-z0-9+/]{43}(?(long)[A-Za-z0-9+/]{43}))={0,2}:?(?![A-Za-z0-9+/=])"
)
#: A digest in base64 alone: `cksum --base64`, OpenBSD's `cksum -b`, `openssl base64`.
_BASE64_WORD = re.compile(rb"(?<![^\s\"'=(])([A-Za-z0-9+/]{43}=|[A-Za-z0-9+/]{86}==)(?![^\s\"',)])")
#: Pairs of digits, as .NET's `BitConverter` and `openssl dgst -c` write them.
_PAIRED = re.compile(
    rb"(?<![0-9A-Za-z:-])[0-9a-fA-F]{2}(?:(?:-[0-9a-fA-F]{2}){15,63}|(?::[0-9a-fA-F]{2}){15,63})"
    rb"(?![0-9A-Za-z:-])"
)
_SIGNATURE = re.compile(rb"(?<=-----BEGIN PGP SIGNATURE-----)[^-]*(?=-----END|\Z)")
_PREFIXED = re.compile(rb"(?<![0-9A-Za-z])0[xX](?=[0-9a-fA-F]{32})")
#: Groups of digits, as `gpg --print-md` writes them.
_GROUPS = re.compile(
    rb"[0-9A-F]{8}(?: {1,2}[0-9A-F]{8})*|[0-9A-F]{4}(?: {1,2}[0-9A-F]{4})*", re.IGNORECASE
)
_GROUPED = re.compile(rb"[0-9a-fA-F]{4} {1,2}[0-9a-fA-F]{4}")
#: The lengths of digests in hex.
_WHOLE = (32, 40, 56, 64, 96, 128)
#: Maximum length of a line of `gpg --print-md`.
_LONGEST = 4352
_ROW = re.compile(rb"<tr\b[^<>]{0,1000}>", re.IGNORECASE)
_ROW_ENDS = re.compile(rb"</(?:tr|table)\b[^<>]{0,100}>", re.IGNORECASE)
_CELL = re.compile(rb"<(?:t[dh]|br|p|div|li)\b", re.IGNORECASE)
_TAG = re.compile(rb"<[^<>]*>")
_METALINK_NAME = re.compile(rb"""name=["']([^"'\n]{1,4096})["']""")
_METALINK_HASH = re.compile(
    rb"""<hash\s{1,8}type=["']([A-Za-z0-9-]{3,16})["']\s{0,8}>\s{0,64}([0-9a-fA-F]{32,128})\s{0,64}<"""
)


def plain_text(text: bytes) -> bytes:
    """The text as UTF-8 with line feeds, and its digests in hex, each in one line."""
    text = _in_utf8(text)
    if b"<metalink" in text[:4096]:
        text = b"\n".join(_of_metalink(text))
    if _ROW.search(text):
        text = b"\n".join(_rows(text))
    if b"\n" not in text:
        text = text.replace(b"\r", b"\n")  # as Macs once wrote lines
    if text.endswith(b"\0"):
        text = b"\n".join(map(_line_of, text[:-1].split(b"\0")))  # sha256sum --zero
    text = _SIGNATURE.sub(b"\n", text)
    text = _BASE64.sub(lambda match: match[1] + b":" + _hex_of(match[4]), text)
    text = _BASE64_WORD.sub(lambda match: _hex_of(match[1]), text)
    text = _PAIRED.sub(lambda match: match[0].translate(None, b"-:"), text)
    text = _PREFIXED.sub(b"", text)
    return b"\n".join(_ungrouped(text)) if _GROUPED.search(text) else text


def _line_of(record: bytes) -> bytes:
    """A record as coreutils writes it without `--zero`: a line feed in a name is escaped."""
    if b"\n" not in record:
        return record
    return b"\\" + record.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")


def _hex_of(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4)).hex().encode()


def _in_utf8(text: bytes) -> bytes:
    """PowerShell and Notepad write UTF-16, with or without a BOM."""
    if text[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return text.decode("utf-32", "replace").encode()
    if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return text.decode("utf-16", "replace").encode()
    head = text[:64]
    if len(head) >= 32 and not any(head[1::2]):
        return text.decode("utf-16-le", "replace").encode()
    if len(head) >= 32 and not any(head[0::2]):
        return text.decode("utf-16-be", "replace").encode()
    return text.removeprefix(b"\xef\xbb\xbf")


def _of_metalink(text: bytes) -> Iterator[bytes]:
    """The digests in a Metalink (RFC 5854, and version 3 before it), which lists mirrors."""
    for part in text.split(b"<file ")[1:]:
        file = part.partition(b"</file>")[0]
        if (name := _METALINK_NAME.match(file)) is None:
            continue
        called = html.unescape(name[1].decode("utf-8", "surrogateescape"))
        for algorithm, digest in _METALINK_HASH.findall(file):
            yield algorithm + b":" + digest + b"  " + called.encode("utf-8", "surrogateescape")


def _rows(text: bytes) -> Iterator[bytes]:
    """The lines of a web page; each row of its tables is one, with blanks between the cells."""
    before, *rows = _ROW.split(text)
    yield before
    for row in rows:
        cells, _, after = _ROW_ENDS.sub(b"\0", row.replace(b"\0", b""), count=1).partition(b"\0")
        bare = _TAG.sub(b"", _CELL.sub(rb" \g<0>", cells))
        yield html.unescape(b" ".join(bare.split()).decode("utf-8", "surrogateescape")).encode(
            "utf-8", "surrogateescape"
        )
        yield after


def _ungrouped(text: bytes) -> Iterator[bytes]:
    """The lines; `NAME: 66AAD3D0 980CB939 …` gets its digest in one word.

    `gpg --print-md`, with which Apache's projects make their checksum files, wraps such lines, and
    writes the digits of a file with a long name below it.
    """
    begun = _Grouped()
    for line in text.split(b"\n"):
        label, groups = _parted(line)
        if not groups or label:
            yield from begun.lines()
            begun = _Grouped()
        if groups or line.rstrip().endswith(b":"):
            begun.add(line, label, groups)
        else:
            yield line
    yield from begun.lines()


class _Grouped:
    """Lines that may be one digest in groups of digits."""

    def __init__(self) -> None:
        self._raw: list[bytes] = []
        self._label = self._digits = b""

    def add(self, line: bytes, label: bytes, groups: bytes) -> None:
        if not self._raw:
            self._label = label or (b"" if groups else line.rstrip())
        self._raw.append(line)
        self._digits += groups.replace(b" ", b"")

    def lines(self) -> list[bytes]:
        is_digest = len(self._digits) in _WHOLE
        return [self._label + b" " + self._digits] if is_digest else self._raw


def _parted(line: bytes) -> tuple[bytes, bytes]:
    """A line of groups of digits: what is before them, and they; else nothing."""
    if len(line) > _LONGEST:
        return b"", b""
    bare = line.strip()
    at = max(bare.rfind(b":"), bare.rfind(b"=")) + 1
    rest = bare[at:].strip()
    return (bare[:at], rest) if _GROUPS.fullmatch(rest) else (b"", b"")
