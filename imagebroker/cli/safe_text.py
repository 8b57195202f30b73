"""Text that does nothing to a terminal: names and messages come from other people and servers.

One rule for all that the command prints as text, whatever the format and wherever it goes: control
characters (C0, DEL, C1), those that turn the direction of writing around or hide text, and line
separators are written as escapes (`\\x1b`, `\\u202e`). Line feeds and tabs stay. It does not depend
on whether a terminal is there: what a script has seen in a file may be shown on one tomorrow.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)


def safe(text: str) -> str:
    """`text` as it may be shown."""
    return text if text.isprintable() else _UNSAFE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


class SafeText:
    """A text stream through which nothing else gets; for the rest it is the stream below it."""

    def __init__(self, stream: TextIO) -> None:
        #: The stream itself, for who draws on a terminal.
        self.below = stream

    def write(self, text: str) -> int:
        self.below.write(safe(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)


@contextmanager
def safe_streams() -> Iterator[None]:
    """Meanwhile standard output and error take no other text, whoever writes it."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, SafeText(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def below(stream: TextIO) -> TextIO:
    """The stream that terminal control may be written to."""
    return stream.below if isinstance(stream, SafeText) else stream
