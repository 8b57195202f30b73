"""Text without terminal control sequences: names and messages come from other people and servers.

One rule for everything the command prints as text, in any format and to any file: control
characters (C0, DEL, C1), characters that reverse the direction of text or hide it, and line
separators are written as escapes (`\\x1b`, `\\u202e`). Line feeds and tabs stay. It applies even if
the output is not a terminal: a file may be shown on one later.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from imagebroker.system.standard_streams import blocking

_UNSAFE = (
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)


def safe(text: str) -> str:
    """`text` with those characters escaped."""
    if text.replace("\n", "").isprintable():
        return text
    return re.sub(_UNSAFE, _escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


class SafeText:
    """A text stream that escapes what is written to it; otherwise like the stream below it."""

    def __init__(self, stream: TextIO) -> None:
        #: The stream itself, to draw on a terminal.
        self.below = stream
        self._whole = blocking(stream)

    def write(self, text: str) -> int:
        self._whole.write(safe(text))
        return len(text)

    def flush(self) -> None:
        self._whole.flush()
        self.below.flush()

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)


@contextmanager
def safe_streams() -> Iterator[None]:
    """Escape everything that is written to standard output and error as text."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, SafeText(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def below(stream: TextIO) -> TextIO:
    """The stream that control sequences can be written to."""
    return stream.below if isinstance(stream, SafeText) else stream
