"""Detects a web page or other text that a server sends instead of an image (a login, an error)."""

from __future__ import annotations

from imagebroker.backends.backend import Buffer
from imagebroker.exceptions import FormatError
from imagebroker.verify.formats.text import ENOUGH, PAGE, kind_of

__all__ = ["ENOUGH", "PageCheck", "check_no_page", "hint_about"]


class PageCheck:
    """The check of one attempt: feed it the bytes, in order; it needs only the first ones."""

    def __init__(self, *, wanted: bool) -> None:
        """`wanted`: text is not refused."""
        self._wanted = wanted
        self._begin = bytearray()
        #: Whether the result is final.
        self.decided = False
        #: What arrives instead of an image, if anything.
        self.found: str | None = None

    def feed(self, chunk: Buffer) -> None:
        """:raises FormatError: the bytes so far are not an image."""
        if not self.decided:
            self._begin += memoryview(chunk)[: ENOUGH - len(self._begin)]
        self._judge(whole=False)

    def end(self) -> None:
        """Call it after the last byte. :raises FormatError: as `feed`."""
        self._judge(whole=True)

    def _judge(self, *, whole: bool) -> None:
        if not self.decided:
            self.found = kind_of(bytes(self._begin), whole=whole)
            self.decided = whole or self.found is not None or len(self._begin) == ENOUGH
        if self.found is not None and not self._wanted:
            raise _no_image(self.found)


def check_no_page(begin: bytes, *, whole: bool) -> None:
    """The same for the beginning of a file.

    :raises FormatError: it is text.
    """
    found = kind_of(begin[:ENOUGH], whole=whole)
    if found is not None:
        raise _no_image(found)


def hint_about(found: str) -> str:
    """The hint for text in place of an image."""
    if found == PAGE:
        return "open the URL in a browser: it may be a login page, or link to the image"
    return "see what the server sent: curl -L URL"


def _no_image(found: str) -> FormatError:
    return FormatError(f"the content is {found}, not an image", hint=hint_about(found), found=found)
