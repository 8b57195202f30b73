"""Whether a web server sends text, a login page or an error say, in place of an image."""

from __future__ import annotations

from imagebroker.backends.backend import Buffer
from imagebroker.exceptions import FormatError
from imagebroker.verify.formats.text import ENOUGH, PAGE, kind_of

__all__ = ["ENOUGH", "PageCheck", "check_no_page", "hint_about"]


class PageCheck:
    """The check of one attempt: feed it what arrives, in order; it needs the first bytes only."""

    def __init__(self) -> None:
        self._begin = bytearray()
        #: Whether more bytes make no difference.
        self.decided = False
        #: What arrives in place of an image.
        self.found: str | None = None

    def feed(self, chunk: Buffer) -> None:
        if self.decided:
            return
        self._begin += memoryview(chunk)[: ENOUGH - len(self._begin)]
        self._judge(whole=False)

    def end(self) -> None:
        """There are no more bytes."""
        if not self.decided:
            self._judge(whole=True)

    def _judge(self, *, whole: bool) -> None:
        self.found = kind_of(bytes(self._begin), whole=whole)
        self.decided = whole or self.found is not None or len(self._begin) == ENOUGH

    def check(self) -> None:
        """:raises FormatError: it is known by now that this is no image."""
        if self.found is not None:
            raise _no_image(self.found)


def check_no_page(begin: bytes, *, whole: bool) -> None:
    """The same for bytes that are there already.

    :raises FormatError: they are the beginning of a text.
    """
    found = kind_of(begin[:ENOUGH], whole=whole)
    if found is not None:
        raise _no_image(found)


def hint_about(found: str) -> str:
    """What to do about it."""
    if found == PAGE:
        return "open the URL in a browser: it may be a login page, or lead to the image"
    return "look at what the server says: curl -L URL"


def _no_image(found: str) -> FormatError:
    return FormatError(f"the content is {found}, not an image", hint=hint_about(found), found=found)
