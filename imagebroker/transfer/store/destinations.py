"""Where a download goes: a path, a path that takes bytes in order only, an object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Generic, TypeVar

from imagebroker.backends.backend import Buffer
from imagebroker.backends.opened_source import OpenedSource
from imagebroker.config.tuning import Tuning
from imagebroker.exceptions import DestinationError
from imagebroker.transfer.demands import Demands
from imagebroker.transfer.fetch.candidates import Candidate, Waiting
from imagebroker.transfer.fetch.events import Chunk, Content, Events, Unpacked
from imagebroker.transfer.fetch.fetch import Fetch
from imagebroker.transfer.layers.entitlement import Entitlement
from imagebroker.transfer.limits import Watch
from imagebroker.transfer.store.file_object import FileObject
from imagebroker.transfer.store.part_file import PartFile
from imagebroker.transfer.store.part_writer import PartWriter
from imagebroker.transfer.store.storage import Storage

#: Makes the bytes of a fetch come in order, verified, and unpacked if that is wanted.
InOrder = Callable[[Fetch], Content]


class Destination(ABC):
    """Receives the bytes of one image. A further one is a further class here."""

    #: Whether bytes may come in any order; such a destination also verifies them.
    any_order = False
    #: None for a file object.
    path: Path | None = None
    #: What other calls may follow, and a cache may copy.
    part: PartFile | None = None

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes that it holds."""

    def guarded(self, candidate: Candidate) -> Candidate:
        """The candidate, as far as its bytes may go here."""
        return candidate

    def first_missing(self, demands: Demands) -> int:
        """The byte that a fetch begins with, if it resumes an earlier one."""
        return 0

    @abstractmethod
    def receive(self, fetch: Fetch, in_order: InOrder) -> Events:
        """Store the bytes. The events are those of the fetch, and `Checked` at the end.

        :raises VerificationError: they are not what they must be.
        """

    @abstractmethod
    def rewind(self) -> bool:
        """Drop what was stored, to receive other bytes; False if that cannot be."""

    @abstractmethod
    def commit(self) -> None:
        """Make the received bytes the image at the destination."""


S = TypeVar("S", bound=Storage)


class InAnyOrder(Destination, Generic[S]):
    """Storage that takes bytes in any order."""

    any_order = True

    def __init__(
        self, storage: S, path: Path, entitlement: Entitlement, watch: Watch, tuning: Tuning
    ) -> None:
        self._storage, self.path, self.part = storage, path, storage.file
        self._entitlement, self._watch, self._tuning = entitlement, watch, tuning

    @property
    def size(self) -> int:
        return self._storage.size

    def first_missing(self, demands: Demands) -> int:
        kept = self._storage.kept
        if kept is None or kept.size is None:
            return 0
        sure = kept.version is not None or kept.shares_digest(demands.checksums)
        return min(kept.stored, kept.size - 1) if sure else 0

    def receive(self, fetch: Fetch, in_order: InOrder) -> Events:
        writer = PartWriter(fetch, self._storage, self._entitlement, self._watch, self._tuning)
        return writer.events()

    def rewind(self) -> bool:
        self._storage.rewind()
        return True


class AtPath(InAnyOrder[PartFile]):
    """A part file."""

    def commit(self) -> None:
        self._storage.commit()


class AtPathInOrder(Destination):
    """A part file that is written from the first byte to the last."""

    def __init__(self, part: PartFile, path: Path) -> None:
        self._part, self.path = part, path

    @property
    def size(self) -> int:
        return self._part.size

    def receive(self, fetch: Fetch, in_order: InOrder) -> Events:
        content = in_order(fetch)
        self._part.reserve(content.size or 0)
        return written(content, self._part.append)

    def rewind(self) -> bool:
        self._part.rewind()
        return True

    def commit(self) -> None:
        self._part.commit()


class IntoObject(Destination):
    """The caller's file object."""

    def __init__(self, target: FileObject) -> None:
        self._target = target

    @property
    def size(self) -> int:
        return self._target.size

    def guarded(self, candidate: Candidate) -> Candidate:
        """Refuses to open a file as its own destination: the bytes would never end."""

        def opened(start: int, left: float, waiting: Waiting) -> OpenedSource:
            source = candidate.open(start, left, waiting)
            if self._target.is_file(source.local_path):
                source.close()
                raise DestinationError(
                    f"{self._target.shown} is the file that {candidate.ref} is read from",
                    hint="write to another file, and rename it afterwards",
                )
            return source

        return candidate._replace(open=opened)

    def receive(self, fetch: Fetch, in_order: InOrder) -> Events:
        return written(in_order(fetch), self._target.write)

    def rewind(self) -> bool:
        return self._target.rewind()

    def commit(self) -> None:
        self._target.commit()


def written(content: Content, write: Callable[[Buffer], None]) -> Events:
    """Hand the bytes to `write`, and the events on."""
    with closing(content.events()) as events:
        for event in events:
            if isinstance(event, (Chunk, Unpacked)):
                write(event.data)
            yield event
