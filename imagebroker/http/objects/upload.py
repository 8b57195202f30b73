"""The upload of one object: whole if it is small, in parts otherwise; all of it, or nothing."""

from __future__ import annotations

import abc
import contextvars
import hashlib
import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import ClassVar, NamedTuple

from imagebroker.backends.backend import BackendHost
from imagebroker.exceptions import (
    BackendError,
    Conflict,
    ImageBrokerError,
    ImageNotFound,
    TransferError,
    UploadFailed,
)
from imagebroker.http.objects.memory import Begun, Memory, remembered
from imagebroker.http.objects.records import metadata_of, same_record
from imagebroker.model.image import Image
from imagebroker.model.upload_data import ImageData

LOG = logging.getLogger(__name__)

#: After so many parts of a stream, the next ones are twice as large.
_GROWING = 2000
#: Seconds to wait before a part is sent again.
_PAUSES = (0.5, 2.0)
_LONGEST_PAUSE = 10.0


class Part(NamedTuple):
    """A part that the server has."""

    number: int
    size: int
    #: In hex.
    md5: str
    #: What the server calls it, if that is something else.
    etag: str = ""


class Stored(NamedTuple):
    """An object that the server has."""

    size: int | None
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Layout:
    """How an upload is cut."""

    part_size: int
    #: Parts that are sent at once.
    at_once: int
    #: The most parts that an object may have; None: any number.
    most_parts: int | None = None

    def size_for(self, total: int | None) -> int:
        """The size of one part of so many bytes."""
        if self.most_parts is None:
            return self.part_size
        return max(self.part_size, -(-(total or 0) // self.most_parts))


class Destination(abc.ABC):
    """The requests of the upload of one object. Threads share it."""

    #: False: the record must be known before the first part is sent, and can be changed afterwards
    #: in an object of at most `most_noted` bytes. True: it is sent with what joins the parts.
    record_comes_last: ClassVar[bool]
    #: See above.
    most_noted: ClassVar[int] = 0
    #: Bytes of metadata that every server takes.
    most_metadata: ClassVar[int]

    @property
    @abc.abstractmethod
    def address(self) -> tuple[str, ...]:
        """A key that no other object has that this host may upload."""

    @abc.abstractmethod
    def find(self) -> Stored | None:
        """The object, if there is one."""

    @abc.abstractmethod
    def put(self, body: bytes, metadata: Mapping[str, str]) -> None:
        """Store it whole. :raises Conflict: it exists."""

    @abc.abstractmethod
    def begin(self, metadata: Mapping[str, str]) -> str:
        """Begin an upload in parts; its id."""

    @abc.abstractmethod
    def parts(self, upload_id: str) -> Mapping[int, Part] | None:
        """The parts that the server has, by number; None if it knows no such upload."""

    @abc.abstractmethod
    def put_part(self, upload_id: str, part: Part, body: bytes) -> Part:
        """Store a part, which the server checks against its MD5."""

    @abc.abstractmethod
    def join(self, upload_id: str, parts: Sequence[Part], metadata: Mapping[str, str]) -> None:
        """Make the object. :raises Conflict: it exists."""

    @abc.abstractmethod
    def abort(self, upload_id: str) -> None:
        """Remove all parts. :raises ImageNotFound: there is no such upload."""

    def note(self, metadata: Mapping[str, str], size: int) -> None:
        """Give the object, which has `size` bytes, this record."""
        raise NotImplementedError


class Upload:
    """One upload, whose parts are checked by the server."""

    def __init__(
        self, host: BackendHost, there: Destination, layout: Layout, image: Image, data: ImageData
    ) -> None:
        self._host, self._there, self._layout = host, there, layout
        self._image, self._data = image, data
        self._part_size = layout.size_for(data.size)
        self._given_up = False

    def run(self) -> None:
        """:raises Conflict: the object exists. :raises UploadFailed: it is not stored."""
        if self._there.find() is not None:
            raise taken(self._image.ref)
        data = self._data
        if (
            not self._there.record_comes_last
            and data.rewindable
            and (data.size or 0) > self._part_size
        ):
            for _ in data:
                pass  # for the digest, which must be known before the first part is sent
            self._note_digest()
        parts = self._cut()
        first = list(islice(parts, 2))
        if len(first) < 2:
            self._whole(first[0] if first else b"")
        else:
            self._in_parts(_handed_on(first, parts))

    def _note_digest(self) -> None:
        digests = {"sha256": self._data.checksums["sha256"]}
        self._image = replace(self._image, checksums=digests)

    @property
    def _metadata(self) -> dict[str, str]:
        return metadata_of(self._image, self._there.most_metadata)

    def _whole(self, body: bytes) -> None:
        self._note_digest()
        try:
            self._there.put(body, self._metadata)
        except (TransferError, BackendError) as error:
            if self._has_landed(self._metadata):
                return
            if isinstance(error, TransferError):
                raise self._failed(error) from error
            raise

    def _in_parts(self, parts: Iterator[bytes]) -> None:
        with remembered(self._host, *self._there.address) as memory:
            begun, there = self._begin(memory)
            try:
                self._join(begun, self._send(begun, there, parts))
            except BaseException as error:
                self._abort(begun, memory, error)
                if isinstance(error, TransferError) and self._data.failure is None:
                    raise self._failed(error) from error
                raise
            memory.forget()
        if not self._image.checksums:
            self._add_digest()

    def _begin(self, memory: Memory) -> tuple[Begun, Mapping[int, Part]]:
        """An upload that goes on, with its parts, or a new one."""
        metadata = self._metadata
        earlier = memory.recall()
        if earlier is not None and same_record(earlier.metadata, metadata):
            there = None
            if earlier.part_size == self._part_size:
                there = self._there.parts(earlier.upload_id)
            if there is not None:
                LOG.info("%s: resuming with %d parts", self._image.ref, len(there))
                return earlier, there
        if earlier is not None:
            self._try_abort(earlier.upload_id)
        begun = Begun(self._there.begin(metadata), self._part_size, metadata)
        memory.keep(begun)
        return begun, {}

    def _send(self, begun: Begun, there: Mapping[int, Part], parts: Iterator[bytes]) -> list[Part]:
        """Upload what the server does not have; a few parts at once."""
        done: list[Part] = []
        under_way: deque[Future[Part]] = deque()
        number = 0
        with ThreadPoolExecutor(
            self._layout.at_once, thread_name_prefix="imagebroker-part"
        ) as pool:
            try:
                for body in parts:
                    number += 1  # enumerate would hold a second part
                    run, known = contextvars.copy_context().run, there.get(number)
                    sent = pool.submit(run, self._stored, begun.upload_id, number, body, known)
                    under_way.append(sent)
                    del body
                    if len(under_way) >= self._layout.at_once:
                        done.append(under_way.popleft().result())
                done.extend(each.result() for each in under_way)
            except BaseException:
                self._given_up = True
                for each in under_way:
                    each.cancel()
                raise
        return sorted(done)

    def _stored(self, upload_id: str, number: int, body: bytes, known: Part | None) -> Part:
        """`known`: what the server has under this number; other bytes take its place."""
        part = Part(number, len(body), hashlib.md5(body, usedforsecurity=False).hexdigest())
        if known is not None and known[:3] == part[:3]:
            return known
        return self._put_part(upload_id, part, body)

    def _put_part(self, upload_id: str, part: Part, body: bytes) -> Part:
        """A part can be sent again: the last one counts."""
        for pause in _PAUSES:
            try:
                return self._there.put_part(upload_id, part, body)
            except (TransferError, BackendError) as error:
                if not error.retryable or self._given_up:
                    raise
                LOG.info("%s: part %d again: %s", self._image.ref, part.number, error)
                time.sleep(min(error.retry_after or pause, _LONGEST_PAUSE))
        return self._there.put_part(upload_id, part, body)

    def _join(self, begun: Begun, parts: Sequence[Part]) -> None:
        metadata = begun.metadata
        if self._there.record_comes_last:
            self._note_digest()
            metadata = self._metadata
        try:
            self._there.join(begun.upload_id, parts, metadata)
        except (TransferError, BackendError):
            if not self._has_landed(metadata):
                raise

    def _has_landed(self, metadata: Mapping[str, str]) -> bool:
        """Whether the object is there after all: only the server's answer was lost."""
        try:
            found = self._there.find()
        except ImageBrokerError:
            return False
        if found is None or found.size != self._data.sent:
            return False
        return all(found.metadata.get(name) == value for name, value in metadata.items())

    def _abort(self, begun: Begun, memory: Memory, error: BaseException) -> None:
        """Remove the parts: nothing is left of an upload that failed.

        :raises UploadFailed: they could not be removed.
        """
        problem = self._try_abort(begun.upload_id)
        if problem is None:
            memory.forget()
            return
        if isinstance(error, Exception):
            raise UploadFailed(
                f"{self._image.ref} could not be stored: {error}; and its parts could not be "
                f"removed: {problem}",
                hint=f"remove them later with: imagebroker purge --backend {self._host.title}",
                retryable=getattr(error, "retryable", False),
            ) from error

    def _try_abort(self, upload_id: str) -> ImageBrokerError | None:
        try:
            self._there.abort(upload_id)
        except ImageNotFound:
            return None
        except ImageBrokerError as problem:
            return problem
        return None

    def _add_digest(self) -> None:
        """Note the digest of data that came as a stream: it is known only now."""
        if self._data.sent > self._there.most_noted:
            return
        self._note_digest()
        try:
            self._there.note(self._metadata, self._data.sent)
        except ImageBrokerError as error:
            LOG.warning("%s has no digest in its record: %s", self._image.ref, error)

    def _failed(self, error: ImageBrokerError) -> UploadFailed:
        return UploadFailed(
            f"{self._image.ref} could not be stored: {error}", hint=error.hint,
            retryable=error.retryable,
        )  # fmt: skip

    def _cut(self) -> Iterator[bytes]:
        """The data in parts of one size, the last one shorter.

        If nobody knows its size and their number is limited, they grow: 10000 of them hold half a
        TiB.
        """
        grows = self._data.size is None and self._layout.most_parts is not None
        held, number = bytearray(), 0
        wanted = self._part_size
        for chunk in self._data:
            held += chunk
            while len(held) >= wanted:
                yield bytes(memoryview(held)[:wanted])
                del held[:wanted]
                number += 1
                if grows:
                    wanted = self._part_size << (number // _GROWING)
        if held:
            yield bytes(held)


def taken(ref: str) -> Conflict:
    """The error where an object exists already."""
    return Conflict(f"{ref} already exists", hint="choose another name, or delete it")


def _handed_on(first: list[bytes], rest: Iterator[bytes]) -> Iterator[bytes]:
    """All parts; none of them is held any longer."""
    while first:
        yield first.pop(0)
    yield from rest
