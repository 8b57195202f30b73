"""The head of an answer: status and headers.

Strict about what says where the body ends, because two programs that read it in different ways
could be made to disagree; about everything else as lenient as curl. docs/security.md has the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from string import ascii_letters, digits
from typing import NamedTuple

from imagebroker.exceptions import MalformedAnswer
from imagebroker.redaction import printable

#: Lines of a head.
MAX_FIELDS = 100

_STATUS_LINE = re.compile(
    r"HTTP/1\.([01]) +([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?", re.IGNORECASE
)
#: The characters of a name.
_TOKEN = frozenset("!#$%&'*+.^_`|~-" + ascii_letters + digits)
#: Digits of a length.
_MAX_DIGITS = 18
#: A trailer after a chunked body. Nobody needs one, so none is repaired.
_TRAILER = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*"
#: What says where the body ends.
_FRAMING = ("content-length", "transfer-encoding")

#: A header: name and value.
Field = tuple[str, str]


class Malformed(MalformedAnswer):
    """The peer does not speak HTTP/1.1 as it is written; it would do so again."""

    retryable = False
    hint = "check that the URL leads to a web server, and what stands in between"


class Head(NamedTuple):
    """Status and headers of an answer."""

    #: 0 or 1: HTTP/1.0 or HTTP/1.1.
    minor: int
    status: int
    reason: str
    #: Names in lower case.
    fields: Sequence[Field]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]

    def get(self, name: str) -> str | None:
        """The value, None if it is not there or not the same each time."""
        values = set(self.all(name))
        return values.pop() if len(values) == 1 else None

    def tokens(self, name: str) -> list[str]:
        """The elements of a comma-separated list, in lower case."""
        elements = (e.strip(" \t").lower() for v in self.all(name) for e in v.split(","))
        return [element for element in elements if element]

    @property
    def content_length(self) -> int | None:
        """:raises Malformed: it is not a number, or there are two."""
        values = {e.strip(" \t") for v in self.all("content-length") for e in v.split(",")}
        if not values:
            return None
        value = values.pop()
        if values or not _is_length(value):
            raise Malformed(f"the Content-Length is not one number: {printable(value, 40)!r}")
        return int(value)

    @property
    def codings(self) -> list[str]:
        """The codings in Transfer-Encoding, one for each line, in lower case."""
        return [value.strip(" \t").lower() for value in self.all("transfer-encoding")]

    def canonical(self) -> Iterator[bytes]:
        """The lines of this head as every parser reads them in the same way: no folds, no names
        that are none, one length."""
        yield (
            f"HTTP/1.{self.minor} {self.status} {self.reason}".rstrip().encode("latin-1") + b"\r\n"
        )
        length = self.content_length
        if length is not None:
            yield b"Content-Length: %d\r\n" % length
        for coding in self.codings:
            yield f"Transfer-Encoding: {coding}\r\n".encode("latin-1")
        for name, value in self.fields:
            if name not in _FRAMING and _is_name(name):
                yield f"{name}: {value}\r\n".encode("latin-1")
        yield b"\r\n"


class HeadLines:
    """Takes the lines of a head one by one."""

    def __init__(self, peer: str, first: str) -> None:
        """:raises Malformed: the first is not a status line."""
        match = _STATUS_LINE.fullmatch(first)
        if match is None:
            raise Malformed(f"{peer} does not speak HTTP/1.1: {printable(first, 60)!r}")
        self._peer, self._match = peer, match
        self._fields: list[Field] = []
        self._count = 0

    def add(self, line: str) -> None:
        """:raises Malformed: other programs might see another header in it, or another end."""
        self._count += 1
        if self._count > MAX_FIELDS:
            raise Malformed(f"{self._peer} sent more than {MAX_FIELDS} headers")
        if "\0" in line or "\r" in line:
            raise self._malformed(line)
        if line[0] in " \t":
            self._fold(line)
            return
        name, colon, value = line.partition(":")
        if not colon or (not _is_name(name) and _looks_like_framing(name)):
            raise self._malformed(line)
        # A name that is none means nothing to anybody, and what follows may be folded to it.
        self._fields.append((name.rstrip(" \t").lower(), value.strip(" \t")))

    def _fold(self, line: str) -> None:
        """A line that continues the value before it (obs-fold; RFC 9112, 5.2)."""
        if not self._fields or self._fields[-1][0] in _FRAMING:
            raise self._malformed(line)
        name, value = self._fields[-1]
        more = line.strip(" \t")
        self._fields[-1] = name, f"{value} {more}".strip(" ")

    def head(self) -> Head:
        minor, status, reason = self._match.groups()
        return Head(int(minor), int(status), reason or "", self._fields)

    def _malformed(self, line: str) -> Malformed:
        return Malformed(f"{self._peer} sent a malformed header: {printable(line, 60)!r}")


def joined(fields: Iterable[Field]) -> dict[str, str]:
    """As one message has them: each name once."""
    found: dict[str, str] = {}
    for name, value in fields:
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def check_trailer(peer: str, line: str) -> None:
    """:raises Malformed: other programs might not read one field there."""
    if not re.fullmatch(_TRAILER, line):
        raise Malformed(f"{peer} sent a malformed trailer: {printable(line, 60)!r}")


def _is_name(text: str) -> bool:
    return bool(text) and _TOKEN.issuperset(text)


def _is_length(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS


def _looks_like_framing(name: str) -> bool:
    letters = re.sub("[^a-z]", "", name.lower())
    return any(letters == framing.replace("-", "") for framing in _FRAMING)
