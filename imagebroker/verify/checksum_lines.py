"""Parses the lines of checksum files, in all formats that publishers and their tools write."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from imagebroker.exceptions import VerificationError
from imagebroker.model.algorithms import BY_DIGITS, DIGITS, FAMILIES, SPELLINGS, UNSUPPORTED

#: What names an algorithm in lines, headings and file names.
_WORD = re.compile(
    rb"(?<![a-z0-9])(?:"
    + b"|".join(f"(?P<a{n}>{pattern})".encode() for n, pattern in enumerate(SPELLINGS.values()))
    + rb")(?:[-_ ]?sums?|[-_ ]?hash(?:es)?)?(?![a-z0-9])",
    re.IGNORECASE,
)
_NAMES = tuple(SPELLINGS)
_HEX = rb"[0-9a-fA-F]{32,128}"
#: `DIGEST  NAME` of coreutils; after a leading backslash, the name is escaped.
_COREUTILS = re.compile(rb"[ \t]*(\\?)(" + _HEX + rb")( [ *]|[ \t]+)(.+)")
#: `SHA256 (NAME) = DIGEST` of BSD, OpenSSL and `sha256sum --tag`.
_BSD = re.compile(rb"[ \t]*(\\?)([A-Za-z0-9/_-]{3,16}) ?\((.+)\) ?= ?([0-9a-zA-Z]*)[ \t]*")
#: A row of PowerShell's Get-FileHash, or `sha256:DIGEST  NAME`.
_LABELLED = re.compile(rb"[ \t]*([A-Za-z0-9/_-]{3,16})[ \t:=]+(" + _HEX + rb")[ \t]+[*]?(.+)")
#: Gentoo's Manifest: `DIST NAME SIZE BLAKE2B DIGEST SHA512 DIGEST`.
_MANIFEST = re.compile(rb"[A-Z]{3,8} (\S+) \d{1,20}((?: [A-Z0-9_]{3,16} " + _HEX + rb")+)[ \t]*")
_MANIFEST_DIGEST = re.compile(rb"([A-Z0-9_]{3,16}) (" + _HEX + rb")")
#: certutil of Windows 7 writes blanks between the bytes.
_PAIRS = re.compile(rb"[ \t]*[0-9a-fA-F]{2}(?: [0-9a-fA-F]{2}){15,63}[ \t]*")
_DIGEST = re.compile(rb"(?<![0-9A-Za-z])" + _HEX + rb"(?![0-9A-Za-z])")
#: `Path : C:\images\disk.img` of `Get-FileHash | Format-List`, below its digest.
_PATH_BELOW = re.compile(rb"[ \t]*(?:path|file|filename|name)[ \t]*:[ \t]*(\S.*)", re.IGNORECASE)
#: Words beside a digest that are not a file name.
_LABEL = re.compile(
    rb"(?:\b(?:hash|checksum|digest|sum|value|hex|file|stdin)s?\b|[^A-Za-z0-9])+", re.I
)
_PGP = re.compile(rb"-----[A-Z ]+-----|Hash: [A-Z0-9-]{3,12}(?:, ?[A-Z0-9-]{3,12})*")
_ESCAPE = re.compile(rb"\\(.?)", re.DOTALL)
_ESCAPED = {b"\\": b"\\", b"n": b"\n", b"r": b"\r"}
#: Replaces a name with an escape that coreutils does not write; no file has this name.
_UNREADABLE = b""
#: Maximum length of a line in which a name is searched.
_LONGEST = 8192


@dataclass(frozen=True)
class Entry:
    """One digest, and the name of the file that it belongs to."""

    #: hashlib's name, or the usual one of an unsupported algorithm ("blake3").
    algorithm: str
    #: In lower case.
    digest: str
    #: The path as written; None: without a name, in a file for one image.
    name: bytes | None
    #: `name` is a text that contains the file's name somewhere.
    is_text: bool = False
    #: The name may begin with the mark of `shasum -U`.
    is_marked: bool = False
    #: The heading or the file's name has an algorithm with another number of digits.
    is_guess: bool = False


def entries(text: bytes, file_name: bytes, origin: str) -> list[Entry]:
    """The entries of a checksum file; comments, signatures and other lines are skipped.

    `text`: as `checksum_text.plain_text` makes it. `file_name` is the name of the checksum file,
    without that of the image: `B2SUMS`, `.b2`.

    :raises VerificationError: a line names an algorithm, but has the wrong number of digits.
    """
    return list(_Lines(_said(file_name), origin).read(text))


def _said(text: bytes) -> str | None:
    """The algorithm that a text names; None if it names none, or several."""
    found = {_NAMES[int(match.lastgroup[1:])] for match in _WORD.finditer(text) if match.lastgroup}
    return found.pop() if len(found) == 1 else None


class _Lines:
    """Reads the lines in order: a heading applies to the digests below it."""

    def __init__(self, by_name: str | None, origin: str) -> None:
        self._by_name, self._origin = by_name, origin
        self._heading: str | None = None
        #: The line above, if it ends in a colon: certutil writes the name there.
        self._above: bytes | None = None

    def read(self, text: bytes) -> Iterator[Entry]:
        nameless: Entry | None = None  # a path may follow in the next line
        for raw in text.split(b"\n"):
            line = raw.removesuffix(b"\r")
            if not line.strip() or _PGP.fullmatch(line):
                if nameless is not None:
                    yield nameless
                    nameless = None
                continue
            below = _PATH_BELOW.fullmatch(line) if nameless is not None else None
            if nameless is not None:
                yield nameless if below is None else replace(nameless, name=below[1].rstrip())
                nameless = None
            if below is not None:
                continue
            for entry in self._entries(line):
                if entry.name is None:
                    nameless = entry
                else:
                    yield entry
        if nameless is not None:
            yield nameless

    def _entries(self, line: bytes) -> Iterator[Entry]:
        above, self._above = self._above, None
        if (match := _MANIFEST.fullmatch(line)) is not None:
            for word, digest in _MANIFEST_DIGEST.findall(match[2]):
                yield from self._entry(digest, match[1], word)
        elif (match := _BSD.fullmatch(line)) is not None and _said(match[2]):
            escape, word, name, digest = match.groups()
            yield from self._entry(digest, _unescaped(name) if escape else name, word)
        elif (match := _LABELLED.fullmatch(line)) is not None and _said(match[1]):
            yield from self._entry(match[2], match[3], match[1])
        elif (match := _COREUTILS.fullmatch(line)) is not None and not _COREUTILS.fullmatch(
            match[4]
        ):
            escape, digest, between, name = match.groups()
            is_marked = between == b" " and name[:1] in (b"U", b"?")
            for entry in self._entry(digest, _unescaped(name) if escape else name):
                yield replace(entry, is_marked=is_marked)
        else:
            yield from self._other(line, above)

    def _other(self, line: bytes, above: bytes | None) -> Iterator[Entry]:
        """A digest, alone or among other words, or a heading."""
        if _PAIRS.fullmatch(line):
            line = line.translate(None, b" ")
        digests = _DIGEST.findall(line) if len(line) <= _LONGEST else []
        if len(digests) == 1:
            rest = line.replace(digests[0], b" ")
            word = next((match[0] for match in _WORD.finditer(rest)), None)
            has_name = _LABEL.sub(b"", _WORD.sub(b"", rest))
            if not has_name and above is not None:
                yield from self._entry(digests[0], above, word, is_text=True)
            else:
                name = rest if has_name else None
                yield from self._entry(digests[0], name, word, is_text=has_name != b"")
        elif len({len(digest) for digest in digests}) == len(digests) > 0:
            # One file, and each of its digests: hashdeep, tables of web pages.
            rest = _DIGEST.sub(b" ", line)
            for digest in digests:
                yield from self._entry(digest, rest, is_text=True)
        elif not digests and len(line) <= _LONGEST:
            self._heading = _said(line) or self._heading
            text = line.rstrip()
            if text.endswith(b":") and _LABEL.sub(b"", _WORD.sub(b"", text)):
                self._above = text.removesuffix(b":").rstrip()

    def _entry(
        self, digest: bytes, name: bytes | None, word: bytes | None = None, is_text: bool = False
    ) -> Iterator[Entry]:
        said = None if word is None else _said(word)
        digits = len(digest)
        algorithm = self._named(said, digits)
        is_guess = algorithm is None and bool(self._heading or self._by_name)
        algorithm = algorithm or BY_DIGITS.get(digits)
        if algorithm is not None and name != _UNREADABLE:
            yield Entry(algorithm, digest.decode().lower(), name, is_text, is_guess=is_guess)

    def _named(self, said: str | None, digits: int) -> str | None:
        """From the line, else the heading, else the file's name."""
        for each in filter(None, (said, self._heading, self._by_name)):
            if DIGITS.get(each) == digits:
                return each
            if digits in FAMILIES.get(each, ()):
                return FAMILIES[each][digits]
            if digits in UNSUPPORTED.get(each, ()):
                return f"blake2b of {4 * digits} bits" if each == "blake2b" else each
            if each == said:
                raise VerificationError(
                    f"{self._origin}: a line for {each} has the wrong number of hex digits",
                    hint="download the checksum file again: it is damaged or truncated",
                )
        return None


def _unescaped(name: bytes) -> bytes:
    """A name in a line that begins with a backslash, in which coreutils escapes line feeds."""
    if any(match[1] not in _ESCAPED for match in _ESCAPE.finditer(name)):
        return _UNREADABLE
    return _ESCAPE.sub(lambda match: _ESCAPED[match[1]], name)
