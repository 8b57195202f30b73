"""Several servers behind one name may have an image, and each may give it its own version.

A version (an ETag) that differs then says nothing about the bytes. Under a strong digest of the
whole the bytes are joined anyway, and the digest decides. Without one they never are.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

#: Times in a row that another version is met without a byte between, and times that a transfer
#: begins again because of one.
MAX_CHANGES = 3


class Step(enum.Enum):
    """The next step after the image seemed to change."""

    #: Ask the same source again: the server that has its version may answer.
    ASK = enum.auto()
    #: Ask the same source again, whatever version answers.
    JOIN = enum.auto()
    #: Open the place again, and go on with what is missing.
    REOPEN = enum.auto()
    #: Open the place again, and begin at byte 0.
    BEGIN = enum.auto()
    GIVE_UP = enum.auto()


class Joining(NamedTuple):
    """The versions that one try to transfer an image may join."""

    #: Whether bytes of different versions, under a strong digest.
    allowed: bool = True
    #: Versions whose bytes were wrong: another server is looked for.
    avoid: frozenset[str] = frozenset()


class Circumstances(NamedTuple):
    """Of a place whose image seems to have changed."""

    #: A strong digest covers the whole.
    proven: bool
    #: Its source can do without its version, which is that of one server of several.
    tolerant: bool
    #: There is no other place.
    last: bool
    #: The missing bytes of its own version can be requested.
    resumable: bool


class Versions:
    """The versions that one try has met."""

    def __init__(self, joining: Joining) -> None:
        self.joining = joining
        #: Whether bytes of several were put together, or may have been.
        self.joined = False
        self.met: set[str] = set()
        self._in_a_row = self._begun_again = 0
        self._avoided = 0

    def opened(self, version: str | None) -> bool:
        """Note the version of a source; False if it should be opened again to find another."""
        if version is not None:
            self.met.add(version)
        if version in self.joining.avoid and self._avoided < MAX_CHANGES:
            self._avoided += 1
            return False
        return True

    def progressed(self) -> None:
        """Bytes have come since the image last seemed to change."""
        self._in_a_row = 0

    def may_ask_again(self) -> bool:
        """Whether a server that refuses may have a neighbour that does not."""
        self._in_a_row += 1
        return self._in_a_row < MAX_CHANGES

    def may_join(self, now: Circumstances) -> bool:
        """Note that bytes of another version follow; False if they must not."""
        if not (now.proven and self.joining.allowed and (now.tolerant or now.last)):
            return False
        self.joined = True
        return True

    def after_change(self, now: Circumstances) -> Step:
        """The image seems to have changed: what next?"""
        self._in_a_row += 1
        enough = self._in_a_row > MAX_CHANGES
        if now.proven and self.joining.allowed:
            if enough or not self.may_join(now):
                return Step.GIVE_UP
            return Step.JOIN if now.tolerant else Step.REOPEN
        if not now.tolerant:
            return Step.GIVE_UP
        if now.resumable and not enough:
            return Step.ASK
        if self._begun_again == MAX_CHANGES:
            return Step.GIVE_UP
        self._begun_again += 1
        self._in_a_row = 0
        return Step.BEGIN
