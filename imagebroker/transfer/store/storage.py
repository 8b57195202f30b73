"""The storage of a download: a part file, or a block device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from imagebroker.backends.backend import Buffer
from imagebroker.model.upload_data import Hasher
from imagebroker.transfer.ranges import Range
from imagebroker.transfer.store.journal import Journal

if TYPE_CHECKING:
    from imagebroker.transfer.store.part_file import PartFile


class Storage(Protocol):
    """Takes bytes in any order, and gives them back."""

    #: Bytes up to the end of the last one that was stored.
    size: int
    #: What an earlier process left here.
    kept: Journal | None

    @property
    def shown(self) -> str:
        """The destination, for messages."""

    @property
    def file(self) -> PartFile | None:
        """The part file, if the kernel may copy a file of this host into it."""

    @property
    def keeps(self) -> bool:
        """Whether `note` is of any use."""

    def new_hash(self, algorithm: str) -> Hasher:
        """A hash for what is stored, which will be fed all of it in order."""

    def reserve(self, size: int) -> None:
        """:raises DestinationError: there is no room for `size` more bytes."""

    def preallocate(self, size: int) -> None:
        """The image has `size` bytes, 0 if that is not known; nothing was written yet."""

    def clear(self, gaps: Sequence[Range]) -> None:
        """An earlier process stored everything but these ranges, which must read as zeros."""

    def write(self, offset: int, chunk: Buffer) -> None:
        """Store `chunk` at `offset`. :raises DestinationError: it cannot be stored."""

    def in_file(self, position: int) -> int:
        """How far, up to `position`, all bytes have left this process."""

    def flush(self) -> None:
        """Let all bytes leave this process."""

    def read_back(self, start: int, stop: int) -> Iterator[Buffer]:
        """The bytes from `start` to `stop`, in order, a MiB at a time."""

    def note(self, journal: Journal) -> None:
        """Record what a later process can resume."""

    def forget(self) -> None:
        """Nobody can go on with what is stored."""

    def rewind(self) -> None:
        """Forget what was stored: the transfer begins again."""
