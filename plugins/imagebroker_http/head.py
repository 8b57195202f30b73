"""The head of an answer: status and headers.

Strict about what says where the body ends, because two programs that read it in different ways
could be made to disagree; about everything else as lenient as curl. docs/security.md has the table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from imagebroker.plugin import printable
from imagebroker_http.stream import Malformed

#: Lines of a head.
MAX_FIELDS = 100

_STATUS_LINE = re.compile(
    r"HTTP/1\.([01]) +([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?", re.IGNORECASE
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LENGTH = re.compile(r"[0-9]{1,18}")
#: What says where the body ends.
_FRAMING = ("content-length", "transfer-encoding")

#: A header: name and value.
Field = tuple[str, str]


@dataclass(frozen=True)
class Head:
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
        if values or not _LENGTH.fullmatch(value):
            raise Malformed(f"the Content-Length is not one number: {printable(value, 40)!r}")
        return int(value)


class HeadLines:
    """Takes the lines of a head one by one."""

    def __init__(self, peer: str, first: str) -> None:
        """:raises Malformed: the first is no status line."""
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
        if not colon or (not _TOKEN.fullmatch(name) and _looks_like_framing(name)):
            raise self._malformed(line)
        # A name that is none means nothing to anybody, and what follows may be folded to it.
        self._fields.append((name.rstrip(" \t").lower(), value.strip(" \t")))

    def _fold(self, line: str) -> None:
        """A line that goes on with the value before it (RFC 9112, 5.2)."""
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


def _looks_like_framing(name: str) -> bool:
    letters = re.sub("[^a-z]", "", name.lower())
    return any(letters == framing.replace("-", "") for framing in _FRAMING)
